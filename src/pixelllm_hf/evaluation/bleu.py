"""BLEU-1 to BLEU-4 as pycocoevalcap computes them, small constants included."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pixelllm_hf.evaluation.metric_inputs import caption_pairs
from pixelllm_hf.evaluation.ngrams import ngram_counts

TINY, SMALL = 1e-15, 1e-9  # the reference's: a missing n-gram order gives ~1e-5, not 0; a perfect score 1 - 2.5e-10


@dataclass(frozen=True)
class Bleu:
    """`corpus` (4,) is computed on summed counts; `samples` (N,4) one by one; `statistics` (N,10) are those counts."""

    corpus: np.ndarray
    samples: np.ndarray
    statistics: np.ndarray
    count: int
    variant: str

    def to_dict(self) -> dict[str, object]:
        """Numbers for a table."""
        named = {f"BLEU-{n}": float(value) for n, value in enumerate(self.corpus, 1)}
        return {**named, "count": self.count, "variant": self.variant}


def bleu(hypotheses: Sequence[str], references: Sequence[Sequence[str]], *, tokenizer: str = "tokens as given") -> Bleu:
    """BLEU of tokenised captions, one hypothesis and one or more references per sample.

    `tokenizer` names how the tokens were made; see `ptb_tokenizer.tokenize`. Nothing to score gives NaN.

    >>> bleu(["a red bus"], [["a red bus"]]).corpus[:2].round(6).tolist()
    [1.0, 1.0]
    """
    hypotheses, samples = caption_pairs(hypotheses, references)
    pairs = zip(hypotheses, samples, strict=True)
    statistics = np.array([_statistics(hypothesis, sample) for hypothesis, sample in pairs]).reshape(-1, 10)
    corpus = bleu_of_statistics(statistics.sum(axis=0)) if len(statistics) else np.full(4, np.nan)
    return Bleu(corpus, bleu_of_statistics(statistics), statistics, len(statistics), f"BLEU on {tokenizer}")


def bleu_of_statistics(statistics: np.ndarray) -> np.ndarray:
    """statistics (...,10), both lengths, 4 counts of n-grams and 4 of clipped matches -> BLEU-1 to 4 (...,4)."""
    length, reference = statistics[..., 0], statistics[..., 1]
    precisions = (statistics[..., 6:] + TINY) / (statistics[..., 2:6] + SMALL)
    ratio = (length + TINY) / (reference + SMALL)
    with np.errstate(over="ignore"):
        brevity = np.where(ratio < 1, np.exp(1 - 1 / ratio), 1.0)
    return np.cumprod(precisions, axis=-1) ** (1 / np.arange(1, 5)) * brevity[..., None]


def _statistics(hypothesis: str, references: Sequence[str]) -> list[float]:
    counts, lengths = ngram_counts(hypothesis), [len(reference.split()) for reference in references]
    length = len(hypothesis.split())
    closest = min(lengths, key=lambda reference: (abs(reference - length), reference))
    most = ngram_counts(references[0])
    for reference in references[1:]:
        most |= ngram_counts(reference)
    matches = [0] * 4
    for ngram, count in counts.items():
        matches[len(ngram) - 1] += min(count, most[ngram])
    return [length, closest, *(max(0, length - n) for n in range(4)), *matches]
