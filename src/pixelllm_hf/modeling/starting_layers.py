"""Modules that know how they start, where the reference's start is a choice of its own."""

from __future__ import annotations

import torch
from torch import nn
from transformers import initialization as init


class KnowsItsStart:
    """A module whose weights `start()` sets; a model's `_init_weights` asks it."""

    def start(self) -> None:
        """Fill the module's own weights, with transformers' `initialization`."""
        raise NotImplementedError


class StartingConv2d(KnowsItsStart, nn.Conv2d):
    """Same-size 3 x 3 convolution that starts with small weights and a given bias."""

    def __init__(self, fan_in: int, fan_out: int, *, std: float, bias: float = 0.0):
        super().__init__(fan_in, fan_out, kernel_size=3, padding=1)
        self.start_std, self.start_bias = std, bias
        self.start()

    @torch.no_grad()
    def start(self) -> None:
        init.normal_(self.weight, std=self.start_std)
        init.constant_(self.bias, self.start_bias)


class StartingLinear(KnowsItsStart, nn.Linear):
    """Linear layer that starts with small weights and without bias."""

    def __init__(self, fan_in: int, fan_out: int, *, std: float):
        super().__init__(fan_in, fan_out)
        self.start_std = std
        self.start()

    @torch.no_grad()
    def start(self) -> None:
        init.normal_(self.weight, std=self.start_std)
        init.zeros_(self.bias)


__all__ = ["KnowsItsStart", "StartingConv2d", "StartingLinear"]
