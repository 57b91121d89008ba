"""The numbers of the steps since the last row of the log."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any


class LogWindow:
    """Sums since the last row. They are in the checkpoint, so that the row after a resume is the same."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        self.sums: dict[str, float] = {}
        self.counts: dict[str, int] = {}
        self.images = 0
        self.rate = 0.0
        self.seconds = 0.0
        self.began = time.monotonic()

    def add(self, values: Iterable[tuple[str, float]], rate: float | None = None) -> None:
        for name, value in values:
            self.sums[name] = self.sums.get(name, 0.0) + value
            self.counts[name] = self.counts.get(name, 0) + 1
        self.rate = self.rate if rate is None else rate

    def pause(self, seconds: float) -> None:
        """Leave out time that was not training."""
        self.began += seconds

    def close(self, step: int) -> dict[str, Any]:
        """The row for the log; parts that a batch does not have are averaged over the batches that do."""
        seconds = self.seconds + time.monotonic() - self.began
        row: dict[str, Any] = {"step": step} | {name: self.sums[name] / self.counts[name] for name in self.sums}
        row |= {"learning_rate": self.rate, "images_per_second": self.images / max(seconds, 1e-9)}
        self.clear()
        return row

    def to_dict(self) -> dict[str, Any]:
        seconds = self.seconds + time.monotonic() - self.began
        return {"sums": self.sums, "counts": self.counts, "images": self.images, "rate": self.rate, "seconds": seconds}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> LogWindow:
        window = cls()
        for name, value in values.items():
            setattr(window, name, value)
        return window
