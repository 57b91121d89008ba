"""An exponential mean of the trained weights; small models answer better with it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class WeightAverage:
    """Keeps `mean = decay * mean + (1 - decay) * weight` for every trainable parameter, in float32.

    The decay grows from 0.1 (`(1 + n) / (10 + n)` after n updates), so that the random start is soon forgotten.
    """

    def __init__(self, model: nn.Module, decay: float):
        if not 0 < decay < 1:
            raise ValueError(f"ema_decay must lie between 0 and 1, but is {decay}; 0.999 suits some thousand steps.")
        self.decay = decay
        self.parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.means = {name: p.detach().float().clone() for name, p in self.parameters.items()}

    @torch.no_grad()
    def update(self, updates_done: int) -> None:
        """Take the weights after update number `updates_done` (from 1) into the mean."""
        decay = min(self.decay, (1 + updates_done) / (10 + updates_done))
        weights = [p.detach().float() for p in self.parameters.values()]
        torch._foreach_lerp_(list(self.means.values()), weights, 1 - decay)

    @torch.no_grad()
    def load(self, means: dict[str, Tensor]) -> None:
        """Replace the means by saved ones; a name missing on either side is an error."""
        if set(means) != set(self.means):
            odd = sorted(set(means) ^ set(self.means))
            raise ValueError(
                f"The saved weight average does not fit the model: {len(odd)} names differ, e.g. {odd[0]!r}. "
                "Resume with the recipe that wrote the checkpoint."
            )
        for name, mean in self.means.items():
            mean.copy_(means[name])

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within the block the model has the mean weights; afterwards exactly the trained ones again."""
        trained = {name: p.detach().clone() for name, p in self.parameters.items()}
        try:
            with torch.no_grad():
                for name, parameter in self.parameters.items():
                    parameter.copy_(self.means[name])
            yield
        finally:
            with torch.no_grad():
                for name, parameter in self.parameters.items():
                    parameter.copy_(trained[name])
