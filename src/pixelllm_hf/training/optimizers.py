"""What moves the weights, and how fast: AdamW as in the reference, or Muon for the matrices with AdamW for the rest."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from pixelllm_hf.training.config import ConfigError, OptimizerConfig

# Layers whose outputs are scores of classes: Muon is made for hidden layers.
_SCORES = ("lm_head", "heads")


def build_optimizers(
    model: nn.Module, groups: Sequence[dict[str, Any]], config: OptimizerConfig
) -> list[torch.optim.Optimizer]:
    """The optimizers over the groups of `parameter_groups`, which they share between them; all step together.

    With `config.muon` the weights of linear layers are Muon's (https://kellerjordan.github.io/posts/muon), scaled so
    that a learning rate means to them what it means to AdamW.
    """
    matrices = linear_weights(model, config.muon_parts) if config.muon else set()
    settings: dict[str, Any] = {"betas": config.betas, "eps": config.eps, "fused": True}
    optimizers: list[torch.optim.Optimizer] = []
    if rest := [part for group in groups if (part := _only(group, matrices, inside=False))]:
        optimizers.append(torch.optim.AdamW(rest, **settings))
    if hidden := [part for group in groups if (part := _only(group, matrices, inside=True))]:
        for group in hidden:
            group["base_lr"] *= config.muon_scale
        optimizers.append(torch.optim.Muon(hidden, adjust_lr_fn="match_rms_adamw"))
    return optimizers


def linear_weights(model: nn.Module, parts: Sequence[str] | None = None) -> set[str]:
    """The names of the weights of linear layers, without those that score classes; of the parts named, if any are."""
    layers = [name for name, layer in model.named_modules() if isinstance(layer, nn.Linear)]
    for part in parts or ():
        if not any(f".{part}." in f".{name}." for name in layers):
            raise ConfigError(f"muon_parts names {part!r}, but the model has no linear layer of that name or below it.")
    if parts is not None:
        layers = [name for name in layers if any(f".{part}." in f".{name}." for part in parts)]
    hidden = [name for name in layers if not any(part in _SCORES for part in name.split("."))]
    return {f"{name}.weight".removeprefix(".") for name in hidden}


def _only(group: dict[str, Any], names: set[str], *, inside: bool) -> dict[str, Any] | None:
    """The group with the parameters of these names, or with the others; None if there are none."""
    kept = [pair for pair in zip(group["names"], group["params"], strict=True) if (pair[0] in names) == inside]
    return {**group, "names": [name for name, _ in kept], "params": [p for _, p in kept]} if kept else None


def learning_rate_factor(step: int, *, warmup_steps: int, total_steps: int) -> float:
    """The factor on the base learning rate at `step` (updates done so far): linear warm-up times a cosine to zero.

    `min(1, step / warmup) * 0.5 * (1 + cos(pi * (step - warmup) / (total - warmup)))`. The first update with a
    warm-up has rate 0, as in the reference (official.md#recipes). Steps after the last keep the last rate.

    >>> [round(learning_rate_factor(s, warmup_steps=10, total_steps=110), 3) for s in (0, 10, 60, 110)]
    [0.0, 1.0, 0.5, 0.0]
    """
    step = min(step, total_steps)
    warmup = min(1.0, step / warmup_steps) if warmup_steps else 1.0
    if total_steps == warmup_steps:
        return warmup
    return warmup * 0.5 * (1 + math.cos(math.pi * (step - warmup_steps) / (total_steps - warmup_steps)))
