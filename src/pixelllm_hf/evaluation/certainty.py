"""Whether a model knows how sure its locations are: `word.spread` against errors, `word.visual` against the truth.

Errors and spreads are of the four sides of a word's box, in shares of the image's sides. Under the Laplace distribution
that the point head predicts the mean error is the spread, and 1 - 1/e = 63.2 % of errors are below it. A probability is
calibrated if of the words with 0.8 four in five have a location; the expected calibration error (ECE; Guo et al. 2017)
is the mean distance from that, over bins of equal width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pixelllm_hf.evaluation.bootstrap import RESAMPLES, Estimate, ratio_of_sums, resampled
from pixelllm_hf.evaluation.ranking import ranking_auc

Array = NDArray[np.float64]
BINS = 10
_LEAST = 1e-6  # distance of a probability from 0 and 1, so that it has a logit


@dataclass(frozen=True)
class WordCertainties:
    """What is known of the words of one image.

    errors, spreads (N,4) of words that have a box; probs (M,) and placed (M,) of words of which it is known whether
    they have a location. Empty where the model does not predict them.
    """

    errors: Array
    spreads: Array
    probs: Array
    placed: NDArray[np.bool_]

    @classmethod
    def of(
        cls, errors: Sequence[Any], spreads: Sequence[Any], probs: Sequence[float], placed: Sequence[bool]
    ) -> WordCertainties:
        """The same from lists."""
        return cls(
            np.array(errors, np.float64).reshape(-1, 4),
            np.array(spreads, np.float64).reshape(-1, 4),
            np.array(probs, np.float64),
            np.array(placed, bool),
        )


def certainty_metrics(
    images: Sequence[WordCertainties], *, threshold: float, resamples: int = RESAMPLES
) -> dict[str, Estimate]:
    """Numbers with intervals over images; those of what the model does not predict are left out.

    threshold: from which probability on a word is shown.
    """
    metrics: dict[str, Estimate] = {}
    errors, spreads = [image.errors for image in images], [image.spreads for image in images]
    if sum(map(len, spreads)):
        sizes = np.array([row.size for row in errors])
        sums = [np.array([row.sum() for row in rows]) for rows in (errors, spreads)]
        below = np.array([(error <= spread).sum() for error, spread in zip(errors, spreads, strict=True)])
        metrics["error_per_spread"] = ratio_of_sums(*sums, resamples=resamples)
        metrics["errors_within_spread"] = ratio_of_sums(below, sizes, resamples=resamples)
        metrics["spread_rank_correlation"] = _rank_correlation(errors, spreads, resamples)
    probs, placed = [image.probs for image in images], [image.placed for image in images]
    if sum(map(len, probs)):
        shown = [row >= threshold for row in probs]
        right = np.array([(row == truth).sum() for row, truth in zip(shown, placed, strict=True)])
        both = np.array([(row & truth).sum() for row, truth in zip(shown, placed, strict=True)])
        words, with_place, are_shown = (np.array([row.sum() for row in rows]) for rows in (_ones(probs), placed, shown))
        metrics["visual_accuracy"] = ratio_of_sums(right, words, resamples=resamples)
        metrics["visual_majority"] = _majority(with_place, words, resamples)
        metrics["shown_words_with_place"] = ratio_of_sums(both, are_shown, resamples=resamples)
        metrics["words_with_place_shown"] = ratio_of_sums(both, with_place, resamples=resamples)
        auc = ranking_auc([row.tolist() for row in probs], [row.tolist() for row in placed], resamples=resamples)
        if auc is not None:
            metrics["visual_AUC"] = auc
        metrics["visual_ECE"] = _calibration_error(probs, placed, resamples)
    return metrics


def spread_curve(images: Sequence[WordCertainties], bins: int = BINS) -> list[dict[str, float]]:
    """Mean spread, mean error and count of as many groups of equal size, from the smallest spreads to the largest."""
    errors = np.concatenate([image.errors.ravel() for image in images] or [np.zeros(0)])
    spreads = np.concatenate([image.spreads.ravel() for image in images] or [np.zeros(0)])
    groups = np.array_split(np.argsort(spreads, kind="stable"), bins)
    return [
        {"spread": float(spreads[group].mean()), "error": float(errors[group].mean()), "count": len(group)}
        for group in groups
        if len(group)
    ]


def visual_curve(images: Sequence[WordCertainties], bins: int = BINS) -> list[dict[str, float]]:
    """Mean probability, share that has a location and count of as many bins of equal width; empty ones are left out."""
    probs = np.concatenate([image.probs for image in images] or [np.zeros(0)])
    placed = np.concatenate([image.placed for image in images] or [np.zeros(0, bool)])
    which = _bin(probs, bins)
    return [
        {"visual": float(probs[own].mean()), "placed": float(placed[own].mean()), "count": int(own.sum())}
        for own in (which == i for i in range(bins))
        if own.any()
    ]


# --- calibration ------------------------------------------------------------------------------------------------


def best_scale_factor(images: Sequence[WordCertainties]) -> float:
    """What to multiply spreads with, so that the errors are likeliest: the mean of error / spread."""
    errors, spreads = (np.concatenate([getattr(image, name) for image in images]) for name in ("errors", "spreads"))
    if not errors.size:
        raise ValueError(
            "no word has both a box and a spread. Calibrate on captions with boxes, and a model with scales."
        )
    return float(np.mean(errors / np.maximum(spreads, _LEAST)))


def best_logistic(images: Sequence[WordCertainties], steps: int = 50) -> tuple[float, float]:
    """slope and bias of the logits of the probabilities with which the labels are likeliest (Platt 1999).

    As he does, labels are drawn in by one word of either kind, so that there is a best one where they can be told apart
    without an error.
    """
    probs, placed = (np.concatenate([getattr(image, name) for image in images]) for name in ("probs", "placed"))
    if placed.all() or not placed.any():
        raise ValueError(
            f"calibration needs words with and without a location, but {placed.sum()} of {placed.size} have one."
        )
    x = logit(probs)
    target = np.where(placed, (placed.sum() + 1) / (placed.sum() + 2), 1 / ((~placed).sum() + 2))
    design, weights = np.stack([x, np.ones_like(x)], axis=1), np.array([1.0, 0.0])

    def loss(w: Array) -> float:
        z = design @ w
        return float(np.mean(np.logaddexp(0.0, z) - target * z))

    for _ in range(steps):  # Newton's, each step as long as it helps
        p = 1 / (1 + np.exp(-np.clip(design @ weights, -50, 50)))
        gradient = design.T @ (p - target)
        hessian = (design * (p * (1 - p))[:, None]).T @ design + 1e-9 * np.eye(2)
        step, length = np.linalg.solve(hessian, gradient), 1.0
        while length > 1e-6 and loss(weights - length * step) > loss(weights):
            length /= 2
        weights = weights - length * step
        if np.abs(length * step).max() < 1e-10:
            break
    return float(weights[0]), float(weights[1])


def logit(probs: Array) -> Array:
    """The inverse of the sigmoid, of probabilities that may be 0 or 1."""
    inside = np.clip(probs, _LEAST, 1 - _LEAST)
    return np.log(inside) - np.log1p(-inside)


# --- parts ------------------------------------------------------------------------------------------------------


def _ones(rows: Sequence[Array]) -> list[Array]:
    return [np.ones(len(row)) for row in rows]


def _bin(probs: Array, bins: int = BINS) -> NDArray[np.int64]:
    return np.minimum((probs * bins).astype(np.int64), bins - 1)


def _majority(with_place: Array, words: Array, resamples: int) -> Estimate:
    """How often the more frequent answer is right, for all words alike."""
    mostly = with_place.sum() * 2 >= words.sum()
    return ratio_of_sums(with_place if mostly else words - with_place, words, resamples=resamples)


def _rank_correlation(errors: Sequence[Array], spreads: Sequence[Array], resamples: int) -> Estimate:
    """Spearman's, of all sides of all words."""
    images = np.repeat(np.arange(len(errors)), [row.size for row in errors])
    x, y = (_ranks(np.concatenate([row.ravel() for row in rows])) for rows in (spreads, errors))

    def correlation(weights: Array) -> list[float]:
        """weights (images,): how often each is drawn. Ranks stay those of all words."""
        w = weights[images] / max(weights[images].sum(), 1)
        dx, dy = x - w @ x, y - w @ y
        norm = np.sqrt((w @ dx**2) * (w @ dy**2))
        return [float((w @ (dx * dy)) / norm) if norm > 0 else np.nan]

    (value,) = correlation(np.ones(len(errors)))
    return resampled({"rho": value}, correlation, len(errors), count=len(x), resamples=resamples)["rho"]


def _ranks(values: Array) -> Array:
    """Mean ranks, equal values alike."""
    _, which, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return ((last - counts) + (counts - 1) / 2)[which].astype(np.float64)


def _calibration_error(probs: Sequence[Array], placed: Sequence[NDArray[np.bool_]], resamples: int) -> Estimate:
    """The expected calibration error."""
    sums = np.zeros((len(probs), 3, BINS))  # of every image and bin: words, probabilities, places
    for i, (row, truth) in enumerate(zip(probs, placed, strict=True)):
        which = _bin(row)
        for k, values in enumerate((np.ones(len(row)), row, truth)):
            sums[i, k] = np.bincount(which, weights=values, minlength=BINS)

    def error(weights: Array) -> list[float]:
        words, said, true = np.tensordot(weights, sums, axes=1)
        return [float(np.abs(said - true).sum() / words.sum()) if words.any() else np.nan]

    (value,) = error(np.ones(len(probs)))
    count = int(sums[:, 0].sum())
    return resampled({"ece": value}, error, len(probs), count=count, resamples=resamples)["ece"]


__all__ = [
    "WordCertainties",
    "best_logistic",
    "best_scale_factor",
    "certainty_metrics",
    "logit",
    "spread_curve",
    "visual_curve",
]
