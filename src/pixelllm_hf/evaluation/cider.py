"""CIDEr as pycocoevalcap computes it: clipped n-gram similarity weighted by how rare an n-gram is in the evaluated set.

The weights come from all samples together: never average scores of parts of a set, gather the captions first.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pixelllm_hf.evaluation.metric_inputs import caption_pairs
from pixelllm_hf.evaluation.ngrams import Ngram, ngram_counts

SIGMA = 6.0
Weighted = tuple[list[dict[Ngram, float]], list[float], int]


@dataclass(frozen=True)
class Cider:
    """`corpus` is the mean of `samples` (N,), 0 to 10; a corpus of one sample scores 0."""

    corpus: float
    samples: np.ndarray
    count: int
    variant: str

    def to_dict(self) -> dict[str, object]:
        """Numbers for a table."""
        return {"CIDEr": self.corpus, "count": self.count, "variant": self.variant}


def cider(
    hypotheses: Sequence[str], references: Sequence[Sequence[str]], *, tokenizer: str = "tokens as given"
) -> Cider:
    """CIDEr of tokenised captions. Short captions cannot reach 10: a perfect single word scores 2.5.

    >>> cider(["a red bus stops", "two dogs"], [["a red bus stops"], ["two dogs"]]).samples.tolist()
    [10.0, 5.0]
    """
    hypotheses, samples = caption_pairs(hypotheses, references)
    counted = [[ngram_counts(text) for text in sample] for sample in samples]
    documents: Counter[Ngram] = Counter()
    for sample in counted:
        documents.update(set().union(*sample))
    vectors = _Vectors(documents, len(samples))
    scores = np.array(
        [
            vectors.mean_similarity(ngram_counts(hypothesis), [vectors.weighted(reference) for reference in sample])
            for hypothesis, sample in zip(hypotheses, counted, strict=True)
        ]
    )
    corpus = float(scores.mean()) if len(scores) else float("nan")
    return Cider(corpus, scores, len(scores), f"CIDEr (idf of this set) on {tokenizer}")


class CiderReward:
    """CIDEr of single captions with the weights of a corpus, as training by reward wants it.

    corpus: the references of each of its images.
    """

    def __init__(self, corpus: Sequence[Sequence[str]]):
        documents: Counter[Ngram] = Counter()
        for references in corpus:
            documents.update(set().union(*(ngram_counts(text) for text in references)))
        self._vectors = _Vectors(documents, len(corpus))

    def __call__(self, captions: Sequence[Sequence[str]], references: Sequence[Sequence[str]]) -> list[list[float]]:
        """captions of each image, its references -> 0 to 10 for each caption.

        >>> corpus = [["a red bus stops"], ["two dogs play"]]
        >>> [round(score, 1) for score in CiderReward(corpus)([["a red bus stops", "two dogs"]], corpus[:1])[0]]
        [10.0, 0.0]
        """
        scores = []
        for mine, theirs in zip(captions, references, strict=True):
            weighted = [self._vectors.weighted(ngram_counts(text)) for text in theirs]
            scores.append([self._vectors.mean_similarity(ngram_counts(text), weighted) for text in mine])
        return scores


class _Vectors:
    """Similarity of n-gram counts under one set of document frequencies."""

    def __init__(self, documents: Mapping[Ngram, int], samples: int):
        self.documents = documents
        self.log_samples = math.log(samples) if samples else 0.0

    def mean_similarity(self, hypothesis: Counter[Ngram], references: Sequence[Weighted]) -> float:
        mine = self.weighted(hypothesis)
        return 10.0 * sum(self._similarity(mine, reference) for reference in references) / len(references)

    def weighted(self, counts: Counter[Ngram]) -> Weighted:
        """tf·idf by order of n-gram, their norms, and the number of bigrams, which the reference takes for a length."""
        weights: list[dict[Ngram, float]] = [{} for _ in range(4)]
        for ngram, count in counts.items():
            idf = self.log_samples - math.log(max(1, self.documents.get(ngram, 0)))
            weights[len(ngram) - 1][ngram] = count * idf
        norms = [math.sqrt(sum(value * value for value in order.values())) for order in weights]
        return weights, norms, sum(count for ngram, count in counts.items() if len(ngram) == 2)

    @staticmethod
    def _similarity(
        hypothesis: Weighted,
        reference: Weighted,
    ) -> float:
        total = 0.0
        for mine, theirs, norm, other_norm in zip(
            hypothesis[0], reference[0], hypothesis[1], reference[1], strict=True
        ):
            common = sum(min(value, theirs.get(ngram, 0.0)) * theirs.get(ngram, 0.0) for ngram, value in mine.items())
            total += common / (norm * other_norm) if norm and other_norm else 0.0
        return total / 4 * math.exp(-((hypothesis[2] - reference[2]) ** 2) / (2 * SIGMA**2))
