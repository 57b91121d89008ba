"""Ways of doing the same, timed turn by turn: a machine that slows down for a while slows all of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from pixelllm_hf.evaluation.bootstrap import Estimate, resampled


@dataclass(frozen=True)
class Timed:
    """What each way gave at last, and the seconds of its runs: run i of all of them were one after the other."""

    results: dict[str, Any]
    seconds: dict[str, list[float]]

    def median(self, way: str) -> float:
        return statistics.median(self.seconds[way])

    def ratio(self, way: str, against: str) -> Estimate:
        """The median over the runs of what `way` takes as a multiple of `against`, with its interval."""
        return median_estimate(np.array(self.seconds[way]) / np.array(self.seconds[against]))


def timed_in_turn(ways: Mapping[str, Callable[[], Any]], repeats: int, clock: str = "wall") -> Timed:
    """Run each way so often, in an order that alternates, so that none always has the warmer caches.

    clock: "wall", or "processor" for the time that this process had, which on a machine with other work says more of
    one thread.
    """
    results = {name: run() for name, run in ways.items()}  # first calls allocate
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for repeat in range(repeats):
        for name in reversed(list(ways)) if repeat % 2 else ways:
            results[name], taken = timed(ways[name], clock)
            seconds[name].append(taken)
    return Timed(results, seconds)


CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "processor": time.process_time}


def timed(run: Callable[[], Any], clock: str = "wall") -> tuple[Any, float]:
    """The result and the seconds, those of the accelerator's work included."""
    now = CLOCKS[clock]
    _synchronize()
    start = now()
    result = run()
    _synchronize()
    return result, now() - start


def median_estimate(values: np.ndarray) -> Estimate:
    """The median of repeats, with its interval over redrawn repeats."""
    medians = {"median": float(np.median(values))}
    return resampled(medians, lambda n: [np.median(values.repeat(n))], len(values), count=len(values))["median"]


def largest_difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Of what was found at all, which is not NaN; NaN where nothing was."""
    known = ~found.isnan()
    return float((found - expected)[known].abs().max()) if known.any() else float("nan")


def _synchronize() -> None:
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()


__all__ = ["CLOCKS", "Timed", "largest_difference", "median_estimate", "timed", "timed_in_turn"]
