"""A small tokenizer for the embedded model: every frequent word is one piece, everything else is spelt.

A Unigram model with word-start marks, as in T5, with T5's ids: <pad> 0 (also the decoder's first token), </s> 1,
<unk> 2. Its pieces are not the outcome of an optimisation but chosen: the words of the corpus by frequency, and every
printable ASCII character, so that user text is never unknown unless it is in another script.
"""

from __future__ import annotations

import math
import string
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from pixelllm_hf.data.annotation_text import load_json, read_records
from pixelllm_hf.data.bad_records import ReadReport
from pixelllm_hf.data.grounded_examples import TARGET_PLACEHOLDER
from pixelllm_hf.processing.tasks import TASK_SPECS

PAD, EOS, UNKNOWN = "<pad>", "</s>", "<unk>"
_WORD_START = "▁"
# Far below any word's log-probability: spelling is the last resort.
_CHARACTER_SCORE = -20.0


def train_tokenizer(
    texts: Iterable[str], *, max_pieces: int = 1024, min_count: int = 1, model_max_length: int = 512
) -> PreTrainedTokenizerFast:
    """Tokenizer whose single pieces are the most frequent words of `texts`, at most `max_pieces` pieces in all.

    Text is lower-cased and loses its accents. Like T5's tokenizer it appends </s> unless add_special_tokens=False.

    >>> tokenizer = train_tokenizer(["a red car", "a red dog"])
    >>> tokenizer.tokenize("A red cart")
    ['▁a', '▁red', '▁car', 't']
    """
    characters = [_WORD_START] + sorted(set(string.printable.lower()) - set(string.whitespace))
    room = max_pieces - 3 - len(characters)
    if room < 0:
        raise ValueError(
            f"max_pieces must be at least {3 + len(characters)} to spell any text, but it is {max_pieces}."
        )
    counts = Counter(word for text in texts for word in _words(text))
    # Ties in alphabetical order: the same corpus gives the same file.
    ranked = sorted((item for item in counts.items() if item[1] >= min_count), key=lambda item: (-item[1], item[0]))
    kept = ranked[:room]
    total = sum(count for _, count in kept) or 1
    pieces = {PAD: 0.0, EOS: 0.0, UNKNOWN: 0.0}
    pieces |= {_WORD_START + word: math.log(count / total) for word, count in kept}
    pieces |= {character: _CHARACTER_SCORE for character in characters if character not in pieces}
    tokenizer = Tokenizer(models.Unigram(list(pieces.items()), unk_id=2, byte_fallback=False))
    tokenizer.normalizer = _normalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement=_WORD_START, prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(replacement=_WORD_START, prepend_scheme="always")
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {EOS}", pair=f"$A {EOS} $B {EOS}", special_tokens=[(EOS, 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=EOS,
        unk_token=UNKNOWN,
        model_max_length=model_max_length,
        model_input_names=["input_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
    )


def scene_texts(folder: str | Path) -> Iterator[str]:
    """Every text that training on a folder of composed scenes can meet: captions, phrases, expressions, questions."""
    folder = Path(folder)
    narratives = folder / "localized_narratives.jsonl"
    if not narratives.is_file():
        raise FileNotFoundError(
            f"{narratives} does not exist. Make scenes first: python -m pixelllm_hf.data.scenes --out {folder}"
        )
    yield from (record["caption"] for _, record in read_records(narratives, ReadReport(), "raise"))
    captions = folder / "captions.json"
    if captions.is_file():
        yield from (record["caption"] for record in load_json(captions, dict)["annotations"])
    refs = folder / "refcoco" / "refs.json"
    if refs.is_file():
        yield from (sentence["sent"] for ref in load_json(refs, list) for sentence in ref["sentences"])
    regions = folder / "visual_genome" / "region_descriptions.json"
    if regions.is_file():
        yield from (region["phrase"] for record in load_json(regions, list) for region in record["regions"])
    muse = folder / "muse" / "muse.json"
    if muse.is_file():
        for record in load_json(muse, list):
            yield from record["questions"]
            yield from (text.replace(TARGET_PLACEHOLDER, "") for text in record["text_answers"] if text)


def prompt_texts() -> Iterator[str]:
    """The prompt strings of all tasks. With `min_count` above 1 their rarer words are spelt."""
    for prompt in TASK_SPECS.values():
        yield from (prompt.prefix, prompt.default or "", *prompt.training)


def _normalizer() -> normalizers.Normalizer:
    return normalizers.Sequence(
        [
            normalizers.NFKD(),
            normalizers.StripAccents(),
            normalizers.NFKC(),
            normalizers.Lowercase(),
            normalizers.Replace(Regex("[‘’]"), "'"),
            normalizers.Replace(Regex("[“”]"), '"'),
            normalizers.Replace(Regex(r"\s+"), " "),
            normalizers.Strip(),
        ]
    )


def _words(text: str) -> Iterator[str]:
    """Words of a text as the tokenizer sees them, without the punctuation around them."""
    for word in _normalizer().normalize_str(text).split():
        bare = word.strip(string.punctuation)
        if bare:
            yield bare
