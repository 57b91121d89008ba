"""Modules that initialize themselves, where the reference starts with a choice of its own."""

from __future__ import annotations

import torch
from torch import nn
from transformers import initialization as init

from .linear import Linear


class InitializesItself:
    """A module whose weights `init_weights()` sets; a model's `_init_weights` asks it."""

    def init_weights(self) -> None:
        """Fill the module's own weights, with transformers' `initialization`."""
        raise NotImplementedError


class InitializedConv2d(InitializesItself, nn.Conv2d):
    """Same-size 3 x 3 convolution that starts with small weights and a given bias."""

    def __init__(self, fan_in: int, fan_out: int, *, std: float, bias: float = 0.0):
        super().__init__(fan_in, fan_out, kernel_size=3, padding=1)
        self.init_std, self.init_bias = std, bias
        self.init_weights()

    @torch.no_grad()
    def init_weights(self) -> None:
        init.normal_(self.weight, std=self.init_std)
        init.constant_(self.bias, self.init_bias)


class InitializedLinear(InitializesItself, Linear):
    """Linear layer that starts with small weights and without bias."""

    def __init__(self, fan_in: int, fan_out: int, *, std: float):
        super().__init__(fan_in, fan_out)
        self.init_std = std
        self.init_weights()

    @torch.no_grad()
    def init_weights(self) -> None:
        init.normal_(self.weight, std=self.init_std)
        init.zeros_(self.bias)


__all__ = ["InitializedConv2d", "InitializedLinear", "InitializesItself"]
