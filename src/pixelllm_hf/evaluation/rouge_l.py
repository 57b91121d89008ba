"""ROUGE-L as pycocoevalcap computes it: longest common subsequence, best precision and best recall over references."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pixelllm_hf.evaluation.metric_inputs import caption_pairs

BETA = 1.2


@dataclass(frozen=True)
class RougeL:
    """`corpus` is the mean of `samples` (N,)."""

    corpus: float
    samples: np.ndarray
    count: int
    variant: str

    def to_dict(self) -> dict[str, object]:
        """Numbers for a table."""
        return {"ROUGE-L": self.corpus, "count": self.count, "variant": self.variant}


def rouge_l(
    hypotheses: Sequence[str], references: Sequence[Sequence[str]], *, tokenizer: str = "tokens as given"
) -> RougeL:
    """ROUGE-L of tokenised captions; the best precision and the best recall may come from different references.

    Words are separated by single spaces, so an empty caption is one empty word, and two empty captions agree.

    >>> rouge_l(["a red bus"], [["a bus"]]).corpus
    0.8299319727891156
    """
    hypotheses, samples = caption_pairs(hypotheses, references)
    scores = np.array([_sample_score(h, sample) for h, sample in zip(hypotheses, samples, strict=True)])
    corpus = float(scores.mean()) if len(scores) else float("nan")
    return RougeL(corpus, scores, len(scores), f"ROUGE-L (beta {BETA}) on {tokenizer}")


def _sample_score(hypothesis: str, references: Sequence[str]) -> float:
    words = hypothesis.split(" ")
    precision = recall = 0.0
    for reference in references:
        others = reference.split(" ")
        common = common_subsequence_length(words, others)
        precision, recall = max(precision, common / len(words)), max(recall, common / len(others))
    if precision == 0 or recall == 0:
        return 0.0
    return (1 + BETA**2) * precision * recall / (recall + BETA**2 * precision)


def common_subsequence_length(first: Sequence[str], second: Sequence[str]) -> int:
    """Length of the longest common subsequence.

    >>> common_subsequence_length("a b c d".split(), "b x d".split())
    2
    """
    row = [0] * (len(second) + 1)
    for word in first:
        diagonal = 0
        for j, other in enumerate(second, 1):
            above = row[j]
            row[j] = diagonal + 1 if word == other else max(above, row[j - 1])
            diagonal = above
    return row[-1]
