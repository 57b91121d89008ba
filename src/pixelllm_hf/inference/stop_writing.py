"""Ends a `generate()` that runs in another thread, or that takes too long."""

from __future__ import annotations

import math
import time
from typing import Any

import torch
from torch import Tensor
from transformers import StoppingCriteria

from .errors import TooSlowError


class StopWriting(StoppingCriteria):
    """Ends all rows when `now` is set, or when the seconds are up; looked at after every token."""

    def __init__(self, seconds: float | None = None):
        self.now = False
        self.late = False
        self.seconds = seconds
        self._deadline = math.inf if seconds is None else time.monotonic() + seconds

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        """input_ids (rows,T) -> which rows are finished, (rows,) bool."""
        self.late |= time.monotonic() > self._deadline
        return torch.full((len(input_ids),), self.now or self.late, dtype=torch.bool, device=input_ids.device)

    def check(self) -> None:
        """A `TooSlowError` if the time was up before the answer was whole."""
        if self.late:
            raise TooSlowError(
                f"the answer took longer than {self.seconds:g} seconds and was stopped. Ask for less at a time."
            )
