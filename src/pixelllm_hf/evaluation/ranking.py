"""Whether a score ranks right answers above wrong ones: the area under the ROC curve."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pixelllm_hf.evaluation.bootstrap import RESAMPLES, Estimate, resampled


def ranking_auc(
    scores: Sequence[Sequence[float]], right: Sequence[Sequence[bool]], *, resamples: int = RESAMPLES
) -> Estimate | None:
    """The probability that a right answer has a higher score than a wrong one; equal scores count half.

    scores, right: a list for each image, over whose redrawn sets the interval is taken. None unless there are both
    right and wrong answers.

    >>> ranking_auc([[0.9, 0.2], [0.4]], [[True, False], [False]], resamples=0).value
    1.0
    """
    images = np.repeat(np.arange(len(scores)), [len(row) for row in scores])
    flat = np.array([score for row in scores for score in row], np.float64)
    hits = np.array([hit for row in right for hit in row], bool)
    if hits.all() or not hits.any():
        return None
    order = np.argsort(flat, kind="stable")
    starts = np.flatnonzero(np.diff(flat[order], prepend=-np.inf))  # of each group of equal scores
    images, hits = images[order], hits[order]

    def auc(weights: np.ndarray) -> list[float]:
        """weights (images,): how often each is drawn."""
        of_answer = weights[images].astype(np.float64)
        good = np.add.reduceat(of_answer * hits, starts)
        bad = np.add.reduceat(of_answer * ~hits, starts)
        below = np.cumsum(bad) - bad / 2
        pairs = good.sum() * bad.sum()
        return [float((good * below).sum() / pairs) if pairs else np.nan]

    (value,) = auc(np.ones(len(scores)))
    return resampled({"auc": value}, auc, len(scores), count=len(flat), resamples=resamples)["auc"]
