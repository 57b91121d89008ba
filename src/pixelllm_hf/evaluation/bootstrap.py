"""How sure a number is: percentile intervals from resampled scenes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Estimate:
    """A value with the bounds of its interval; `count` is the sum of the weights it is taken over."""

    value: float
    low: float
    high: float
    count: int


def ratio_of_sums(
    numerators: np.ndarray, denominators: np.ndarray, *, resamples: int = 2000, level: float = 0.95, seed: int = 0
) -> Estimate:
    """Σ numerators / Σ denominators over scenes (N,), with a bootstrap interval that draws whole scenes.

    A mean over scenes has denominators of 1. Words of one scene are not independent, so scenes are drawn, not words.
    Without any weight the value is NaN.

    >>> ratio_of_sums(np.array([1.0, 1.0]), np.array([2.0, 2.0])).value
    0.5
    """
    numerators, denominators = np.asarray(numerators, np.float64), np.asarray(denominators, np.float64)
    total = denominators.sum()
    if not total > 0:
        return Estimate(float("nan"), float("nan"), float("nan"), 0)
    number = len(numerators)
    draws = np.random.default_rng(seed).multinomial(number, np.full(number, 1 / number), size=resamples)
    weights = draws @ denominators
    ratios = (draws @ numerators)[weights > 0] / weights[weights > 0]
    low, high = np.quantile(ratios, [(1 - level) / 2, (1 + level) / 2])
    return Estimate(float(numerators.sum() / total), float(low), float(high), int(round(total)))
