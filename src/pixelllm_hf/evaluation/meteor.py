"""METEOR 1.5 for English, by the official jar where it can run and in plain Python elsewhere.

Three variants, never to be mixed in one table:
 - "meteor-jar": the jar of pycocoevalcap; needs Java and that package. Official numbers.
 - "meteor-py": the same algorithm here, on the data inside that package; needs no Java.
 - "meteor-approx": exact words and stems only, with a function word list of our own; needs neither.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pixelllm_hf.evaluation.meteor_aligner import MODULE_WEIGHTS, Alignment, align
from pixelllm_hf.evaluation.meteor_jar import MeteorJar, jar_problem
from pixelllm_hf.evaluation.meteor_normalizer import normalize
from pixelllm_hf.evaluation.meteor_words import Phrase, WordData, installed_folder, installed_words
from pixelllm_hf.evaluation.metric_inputs import MetricInputError, caption_pairs

VARIANTS = {
    "meteor-jar": "METEOR 1.5 (jar)",
    "meteor-py": "METEOR 1.5 (Python, pycocoevalcap data)",
    "meteor-approx": "METEOR≈ (exact+stem)",
}
ALPHA, GAMMA, BETA, DELTA = 0.85, 0.6, 0.2, 0.75


@dataclass(frozen=True)
class Meteor:
    """`corpus` is the formula on summed statistics, not the mean of `samples` (N,); `statistics` (N,23) as the jar's.

    Of several references a sample takes the best one. NaN corpus without samples.
    """

    corpus: float
    samples: np.ndarray
    statistics: np.ndarray
    count: int
    variant: str

    def to_dict(self) -> dict[str, Any]:
        """Numbers for a table."""
        mean = float(self.samples.mean()) if self.count else float("nan")
        return {"METEOR": self.corpus, "METEOR_mean_of_samples": mean, "count": self.count, "variant": self.variant}


def default_variant() -> str:
    """The best variant that can run here."""
    if jar_problem() is None:
        return "meteor-jar"
    return "meteor-py" if installed_folder() is not None else "meteor-approx"


def meteor(hypotheses: Sequence[str], references: Sequence[Sequence[str]], *, variant: str | None = None) -> Meteor:
    """METEOR of captions, one hypothesis and one or more references per sample; raw text or tokens, as the task says.

    variant: a key of `VARIANTS`; by default the best that can run. One that cannot run here raises `MetricInputError`.

    >>> meteor(["a red bus"], [["a red bus", "a car"]], variant="meteor-approx").samples.tolist()
    [1.0]
    """
    hypotheses, samples = caption_pairs(hypotheses, references)
    variant = variant or default_variant()
    if variant not in VARIANTS:
        raise MetricInputError(f"variant must be one of {sorted(VARIANTS)}, but is {variant!r}.")
    if not hypotheses:
        return Meteor(float("nan"), np.zeros(0), np.zeros((0, 23)), 0, VARIANTS[variant])
    hypotheses = [_one_line(text) for text in hypotheses]
    samples = [[_one_line(text) for text in sample] for sample in samples]
    if variant == "meteor-jar":
        statistics = _jar_statistics(hypotheses, samples)
    else:
        statistics = PythonMeteor(_words_for(variant)).statistics(hypotheses, samples)
    scores = meteor_of_statistics(statistics)
    return Meteor(corpus_meteor(statistics), scores, statistics, len(scores), VARIANTS[variant])


def meteor_of_statistics(statistics: np.ndarray) -> np.ndarray:
    """statistics (...,23) -> scores (...). The order of the 23:

    lengths of hypothesis and reference, their numbers of function words; for each of exact, stem, synonym, paraphrase
    the matched content words of hypothesis and reference and the matched function words of both; chunks; matched words
    of both.
    """
    statistics = np.asarray(statistics, np.float64)
    matches = statistics[..., 4:20].reshape(*statistics.shape[:-1], 4, 4)
    weighted = np.einsum("...mk,m->...k", matches, np.array(MODULE_WEIGHTS))
    content, function = statistics[..., 0:2] - statistics[..., 2:4], statistics[..., 2:4]
    with np.errstate(invalid="ignore", divide="ignore"):
        shares = (DELTA * weighted[..., :2] + (1 - DELTA) * weighted[..., 2:]) / (
            DELTA * content + (1 - DELTA) * function
        )
        mean = 1 / ((1 - ALPHA) / shares[..., 0] + ALPHA / shares[..., 1])
        fragmentation = statistics[..., 20] / (statistics[..., 21:].sum(axis=-1) / 2)
        fragmentation = np.where(_in_one_piece(statistics), 0.0, fragmentation)
        score = mean * (1 - GAMMA * fragmentation**BETA)
    return np.where(np.isfinite(score), np.maximum(score, 0.0), 0.0)


def corpus_meteor(statistics: np.ndarray, weights: np.ndarray | None = None) -> float:
    """METEOR of all samples (N,23) together; `weights` (N,) counts how often each is drawn, for a bootstrap.

    A sample matched completely in one chunk adds no chunk to the sum.
    """
    adjusted = np.array(statistics, np.float64)
    adjusted[_in_one_piece(adjusted), 20] = 0
    weights = np.ones(len(adjusted)) if weights is None else np.asarray(weights, np.float64)
    return float(meteor_of_statistics(weights @ adjusted))


def _in_one_piece(statistics: np.ndarray) -> np.ndarray:
    whole = (statistics[..., 21] == statistics[..., 0]) & (statistics[..., 22] == statistics[..., 1])
    return whole & (statistics[..., 20] == 1)


class PythonMeteor:
    """The algorithm of the jar, with the words it is given."""

    def __init__(self, words: WordData):
        self.words = words

    def statistics(self, hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> np.ndarray:
        """(N,23), of each sample's best reference."""
        lines = {line for sample in references for line in sample} | set(hypotheses)
        tokens = {line: normalize(line, self.words.abbreviations) for line in lines}
        vocabulary = {token for line in tokens.values() for token in line}
        paraphrases = self.words.paraphrases_of(vocabulary)
        known: dict[tuple[str, str], tuple[float, np.ndarray]] = {}
        rows = []
        for hypothesis, sample in zip(hypotheses, references, strict=True):
            best = None
            for reference in sample:
                if (hypothesis, reference) not in known:
                    row = self._pair_statistics(tokens[hypothesis], tokens[reference], paraphrases)
                    known[hypothesis, reference] = float(meteor_of_statistics(row)), row
                candidate = known[hypothesis, reference]
                if best is None or candidate[0] > best[0]:
                    best = candidate
            assert best is not None
            rows.append(best[1])
        return np.array(rows).reshape(-1, 23)

    def _pair_statistics(
        self, hypothesis: Sequence[str], reference: Sequence[str], paraphrases: dict[Phrase, list[Phrase]]
    ) -> np.ndarray:
        alignment = align(hypothesis, reference, synonyms=self.words.synonyms, paraphrases=paraphrases)
        return alignment_statistics(alignment, hypothesis, reference, self.words.function_words)


def alignment_statistics(
    alignment: Alignment, hypothesis: Sequence[str], reference: Sequence[str], function_words: frozenset[str]
) -> np.ndarray:
    """The 23 numbers of an alignment."""
    in_hypothesis = [word in function_words for word in hypothesis]
    in_reference = [word in function_words for word in reference]
    modules = np.zeros((4, 4))
    for match in alignment.matches:
        for j in range(match.other_start, match.other_start + match.other_length):
            modules[match.module, 2 if in_hypothesis[j] else 0] += 1
        for i in range(match.start, match.start + match.length):
            modules[match.module, 3 if in_reference[i] else 1] += 1
    matched = modules[:, [0, 2]].sum(), modules[:, [1, 3]].sum()
    sizes = len(hypothesis), len(reference), sum(in_hypothesis), sum(in_reference)
    return np.array([*sizes, *modules.ravel(), alignment.chunks, *matched], np.float64)


def _words_for(variant: str) -> WordData:
    if variant == "meteor-approx":
        return WordData()
    folder = installed_folder()
    if folder is None:
        raise MetricInputError(
            "meteor-py reads the word data of pycocoevalcap, which is not installed; pip install pycocoevalcap or "
            'choose variant="meteor-approx".'
        )
    return installed_words(folder)


def _jar_statistics(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> np.ndarray:
    problem = jar_problem()
    if problem is not None:
        raise MetricInputError(f'meteor-jar cannot run: {problem}. Choose variant="meteor-py" or "meteor-approx".')
    with MeteorJar() as jar:
        return jar.statistics(hypotheses, references)


def _one_line(text: str) -> str:
    """As the official wrapper hands captions over; its field separator must not occur in them."""
    return text.replace("\n", " ").replace("\r", " ").replace("|||", "").replace("  ", " ")
