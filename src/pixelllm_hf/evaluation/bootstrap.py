"""How sure a number is: percentile intervals from resampled scenes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 2000


@dataclass(frozen=True)
class Estimate:
    """A value with the bounds of its interval; `count` is the sum of the weights it is taken over."""

    value: float
    low: float
    high: float
    count: int


def ratio_of_sums(
    numerators: np.ndarray,
    denominators: np.ndarray,
    *,
    resamples: int = RESAMPLES,
    level: float = 0.95,
    seed: int = 0,
) -> Estimate:
    """Σ numerators / Σ denominators over scenes (N,), with a bootstrap interval that draws whole scenes.

    A mean over scenes has denominators of 1. Words of one scene are not independent, so scenes are drawn, not words.
    Without any weight the value is NaN; without resamples the interval is.

    >>> ratio_of_sums(np.array([1.0, 1.0]), np.array([2.0, 2.0])).value
    0.5
    """
    numerators, denominators = np.asarray(numerators, np.float64), np.asarray(denominators, np.float64)
    total = denominators.sum()
    if not total > 0:
        return Estimate(float("nan"), float("nan"), float("nan"), 0)
    draws = _draws(len(numerators), resamples, seed)
    weights = draws @ denominators
    ratios = (draws @ numerators)[weights > 0] / weights[weights > 0]
    return Estimate(float(numerators.sum() / total), *_interval(ratios, level), int(round(total)))


def resampled(
    values: Mapping[str, float],
    statistic: Callable[[np.ndarray], Sequence[float]],
    scenes: int,
    *,
    count: int,
    resamples: int = RESAMPLES,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, Estimate]:
    """Corpus numbers that are no ratios of sums, with the intervals of `statistic` over redrawn scenes.

    statistic: weights (scenes,), how often each scene is drawn -> the numbers in the order of `values`.

    >>> scores = np.array([0.2, 0.4])
    >>> resampled({"least": 0.2}, lambda weights: [scores[weights > 0].min()], 2, count=2)["least"].high
    0.4
    """
    draws = _draws(scenes, resamples, seed) if scenes else np.zeros((0, 0))
    redrawn = np.array([statistic(weights) for weights in draws], np.float64).reshape(-1, len(values))
    return {
        name: Estimate(float(value), *_interval(redrawn[:, i], level), count)
        for i, (name, value) in enumerate(values.items())
    }


def _draws(number: int, resamples: int, seed: int) -> np.ndarray:
    """(resamples, number): how often each scene is drawn."""
    return np.random.default_rng(seed).multinomial(number, np.full(number, 1 / number), size=resamples)


def _interval(values: np.ndarray, level: float) -> tuple[float, float]:
    values = values[~np.isnan(values)]  # a draw may hold nothing to count
    if not len(values):
        return float("nan"), float("nan")
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
