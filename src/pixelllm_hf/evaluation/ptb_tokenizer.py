"""Captions as the tokens that BLEU, ROUGE-L, CIDEr and METEOR of COCO count: Penn Treebank, lower case, no punctuation.

Two ways to the same tokens: the Stanford jar of pycocoevalcap (official; needs Java), and rules in plain Python that
were read off the jar's output. Captions agree; the rules leave out what captions do not hold (telephone numbers in
brackets, rare smileys).
"""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from pixelllm_hf.evaluation.metric_inputs import MetricInputError
from pixelllm_hf.evaluation.ptb_rules import ptb_tokens

TOKENIZERS = {"ptb-jar": "PTB tokens (Stanford jar 3.4.1)", "ptb-py": "PTB tokens (Python rules)"}
JAR = "stanford-corenlp-3.4.1.jar"
# removed after tokenising; bracket tokens are lower case by then, so the official list misses them and they stay
PUNCTUATION = frozenset(["''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";"])


def default_tokenizer() -> str:
    """The best tokenizer that can run here."""
    return "ptb-jar" if _jar_problem() is None else "ptb-py"


def tokenize(captions: Sequence[str], *, tokenizer: str | None = None) -> tuple[list[str], str]:
    """Every caption as tokens joined by spaces, and the name of the tokenizer for the table.

    tokenizer: a key of `TOKENIZERS`; by default the jar where it can run.

    >>> tokenize(["It's a dog's life, isn't it?"], tokenizer="ptb-py")[0]
    ["it 's a dog 's life is n't it"]
    """
    tokenizer = tokenizer or default_tokenizer()
    if tokenizer not in TOKENIZERS:
        raise MetricInputError(f"tokenizer must be one of {sorted(TOKENIZERS)}, but is {tokenizer!r}.")
    if tokenizer == "ptb-jar":
        problem = _jar_problem()
        if problem is not None:
            raise MetricInputError(f'ptb-jar cannot run: {problem}. Choose tokenizer="ptb-py".')
        lines = _jar_lines(captions)
    else:
        known = {caption: ptb_tokens(caption) for caption in set(captions)}
        lines = [known[caption] for caption in captions]
    return [" ".join(token for token in line if token not in PUNCTUATION) for line in lines], TOKENIZERS[tokenizer]


def tokenize_samples(
    hypotheses: Sequence[str], references: Sequence[Sequence[str]], *, tokenizer: str | None = None
) -> tuple[list[str], list[list[str]], str]:
    """`tokenize` for hypotheses and lists of references, in one run."""
    flat = [*hypotheses, *(text for sample in references for text in sample)]
    tokens, name = tokenize(flat, tokenizer=tokenizer)
    rest = iter(tokens[len(hypotheses) :])
    return tokens[: len(hypotheses)], [[next(rest) for _ in sample] for sample in references], name


def _jar_folder() -> Path | None:
    try:
        spec = importlib.util.find_spec("pycocoevalcap.tokenizer")
    except (ImportError, ValueError):
        return None
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        if (Path(folder) / JAR).is_file():
            return Path(folder)
    return None


def _jar_problem() -> str | None:
    if _jar_folder() is None:
        return "pycocoevalcap is not installed"
    return None if shutil.which("java") else "there is no java on the PATH"


def _jar_lines(captions: Sequence[str]) -> list[list[str]]:
    if not captions:
        return []
    program = ["java", "-Dfile.encoding=UTF-8", "-cp", JAR, "edu.stanford.nlp.process.PTBTokenizer"]
    lines = "".join(" ".join(caption.split("\n")) + "\n" for caption in captions)
    result = subprocess.run(
        [*program, "-preserveLines", "-lowerCase"],
        cwd=_jar_folder(),
        input=lines,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    answers = result.stdout.split("\n")[:-1]
    if result.returncode or len(answers) != len(captions):
        raise RuntimeError(
            f"the PTB tokenizer jar answered {len(answers)} lines to {len(captions)} captions (status "
            f"{result.returncode}): {result.stderr[-300:]!r}."
        )
    return [answer.rstrip().split(" ") for answer in answers]
