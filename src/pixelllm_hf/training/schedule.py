"""The reference's learning-rate schedule (official.md#recipes)."""

from __future__ import annotations

import math


def learning_rate_factor(step: int, *, warmup_steps: int, total_steps: int) -> float:
    """The factor on the base learning rate at `step` (updates done so far): linear warm-up times a cosine to zero.

    `min(1, step / warmup) * 0.5 * (1 + cos(pi * (step - warmup) / (total - warmup)))`. The first update with a
    warm-up has rate 0, as in the reference. Steps after the last keep the last rate.

    >>> [round(learning_rate_factor(s, warmup_steps=10, total_steps=110), 3) for s in (0, 10, 60, 110)]
    [0.0, 1.0, 0.5, 0.0]
    """
    step = min(step, total_steps)
    warmup = min(1.0, step / warmup_steps) if warmup_steps else 1.0
    if total_steps == warmup_steps:
        return warmup
    return warmup * 0.5 * (1 + math.cos(math.pi * (step - warmup_steps) / (total_steps - warmup_steps)))
