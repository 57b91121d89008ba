"""Which parameters train, at which rate, with which decay (official.md#recipes)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from pixelllm_hf.training.config import OptimizerConfig
from pixelllm_hf.training.recipe_values import ConfigError


def freeze(model: nn.Module, parts: Sequence[str]) -> list[str]:
    """Take the modules or parameters named in `parts` out of training; returns the names of what froze.

    A part is a dotted name prefix (`language_model`, `vision_towers.sam`). A part that matches nothing is an error:
    a recipe that believes something is frozen must not train it.
    """
    frozen = []
    for part in parts:
        names = [name for name, _ in model.named_parameters() if name == part or name.startswith(f"{part}.")]
        if not names:
            children = ", ".join(name for name, _ in model.named_children())
            raise ConfigError(f"freeze names {part!r}, but the model has no such part. Its parts are: {children}.")
        frozen += names
    for name, parameter in model.named_parameters():
        if name in set(frozen):
            parameter.requires_grad_(False)
    return frozen


def layer_scales(names: Sequence[str], layer_decay: float, tower: str = "eva02") -> dict[str, float]:
    """The learning-rate factor of every parameter name under layer decay over the blocks of one vision tower.

    With n blocks the ids are 0..n+1 and the factor is `layer_decay ** (n + 1 - id)`: patch and position embeddings
    (of any tower, as in the reference) have id 0, block i has id i + 1, everything else id n + 1.
    """
    block = re.compile(rf"(?:^|\.){re.escape(tower)}\.(?:\w+\.)*?(?:blocks|layers?)\.(\d+)\.")
    blocks = [int(match.group(1)) for name in names if (match := block.search(name))]
    if layer_decay != 1 and not blocks:
        raise ConfigError(
            f"layer_decay is {layer_decay}, but no vision tower {tower!r} has blocks that it could go over. Set "
            "layer_decay_tower to one that has, or leave layer_decay out."
        )
    last = max(blocks, default=-1) + 2
    scales = {}
    for name in names:
        match = block.search(name)
        if "patch_embed.proj" in name or "pos_embed" in name:
            layer_id = 0
        else:
            layer_id = int(match.group(1)) + 1 if match else last
        scales[name] = layer_decay ** (last - layer_id)
    return scales


def parameter_groups(
    model: nn.Module,
    *,
    learning_rate: float,
    weight_decay: float = 0.0,
    layer_decay: float = 1.0,
    layer_decay_tower: str = "eva02",
    lr_multipliers: Mapping[str, float] | None = None,
) -> list[dict[str, Any]]:
    """Groups for the optimizer; each has `params`, `names`, `lr`, `base_lr`, `weight_decay`.

    1-D parameters (biases, norms) do not decay. `lr_multipliers` maps a part of the name to a factor on top of the
    layer's. Every group follows the whole schedule from its own `base_lr`. A multiplier that matches nothing raises.
    """
    multipliers = dict(lr_multipliers or {})
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if not parameters:
        raise ConfigError("No parameter is left to train: every part of the model is frozen. Shorten `freeze`.")
    for part in multipliers:
        if not any(part in name for name in parameters):
            raise ConfigError(f"lr_multipliers names {part!r}, but no trainable parameter has that in its name.")
    # Ids count the blocks of the whole tower, so that freezing some blocks does not shift the others.
    scales = layer_scales([name for name, _ in model.named_parameters()], layer_decay, layer_decay_tower)
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    for name, parameter in parameters.items():
        scale = scales[name]
        for part, factor in multipliers.items():
            if part in name:
                scale *= factor
        decay = 0.0 if parameter.ndim <= 1 else weight_decay
        group = groups.setdefault(
            (scale, decay),
            {"params": [], "names": [], "lr": learning_rate * scale, "base_lr": learning_rate * scale},
        )
        group["weight_decay"] = decay
        group["params"].append(parameter)
        group["names"].append(name)
    return list(groups.values())


def configured_groups(model: nn.Module, config: OptimizerConfig) -> list[dict[str, Any]]:
    """`parameter_groups` as a recipe asks for them."""
    return parameter_groups(
        model,
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        layer_decay=config.layer_decay,
        layer_decay_tower=config.layer_decay_tower,
        lr_multipliers=config.lr_multipliers,
    )
