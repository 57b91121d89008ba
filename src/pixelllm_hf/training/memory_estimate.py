"""How much memory a training step takes on each device, estimated from sizes alone.

States are counted exactly: weights, gradients, moments, means. Activations follow the count of Korthikanti et al.
(arXiv 2205.05198, section 4) for attention that keeps no matrix of scores; workspaces of kernels and fragmentation come
on top.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

FULL, HALF = 4, 2  # bytes of a value


@dataclass(frozen=True)
class Sizes:
    """Parameters of a model: all, trained, those of its largest block, and those outside of blocks."""

    total: int
    trained: int
    largest_block: int
    outside_blocks: int

    @classmethod
    def of(cls, model: nn.Module) -> Sizes:
        names = set(getattr(model, "_no_split_modules", None) or ())
        blocks = [module for module in model.modules() if type(module).__name__ in names]
        inside = {id(parameter) for block in blocks for parameter in block.parameters()}
        return cls(
            total=sum(p.numel() for p in model.parameters()),
            trained=sum(p.numel() for p in model.parameters() if p.requires_grad),
            largest_block=max((sum(p.numel() for p in block.parameters()) for block in blocks), default=0),
            outside_blocks=sum(p.numel() for p in model.parameters() if id(p) not in inside),
        )


def state_bytes(sizes: Sizes, engine: str, devices: int, *, half: bool, averaged: bool) -> int:
    """Weights, gradients, AdamW's moments and what the engine gathers, on each device.

    engine: `ddp`, `fsdp2` or `zero3`. half: whether the step computes in 16 bits; weights are kept in float32.
    """
    moments = sizes.trained * (2 * FULL + (FULL if averaged else 0))
    weights, gradients = sizes.total * FULL, sizes.trained * FULL
    casts = sizes.trained * HALF if half else 0  # autocast keeps the 16-bit copies of weights that train
    if engine == "ddp":
        return weights + 2 * gradients + moments + casts  # gradients once more in the buckets
    width = HALF if half else FULL
    # the block at work, the next one, and what no block holds
    gathered = min(2 * sizes.largest_block + sizes.outside_blocks, sizes.total) * width if devices > 1 else 0
    if engine == "zero3" and half:  # DeepSpeed keeps 16-bit weights and gradients, and float32 copies of what trains
        weights, gradients = sizes.total * HALF, sizes.trained * HALF
        moments += sizes.trained * FULL
    return -(-(weights + gradients + moments) // devices) + gathered


def activation_bytes(
    model: Any, *, images: int, prompts: int, text: int, context: int, half: bool, checkpointing: bool = False
) -> int:
    """What a step keeps for the way back. prompts: of an image; text, context: tokens of a prompt.

    model: of any family, also one on the meta device. What no gradient passes through keeps nothing. checkpointing:
    whether layers keep only what they read, and one of them at a time the rest.
    """
    width = HALF if half else FULL
    values = _of_pixellm if hasattr(model, "vision_tower") else _of_pixelllm
    logits, layers = 1 + 2 * FULL // width, _checkpointed if checkpointing else _kept
    return width * values(
        model, images=images, prompts=prompts, text=text, context=context, logits=logits, layers=layers
    )


# Values that so many layers keep of so many tokens: count, tokens, width, values of a layer -> values.
_Layers = Callable[[int, int, int, int], int]


def _kept(count: int, tokens: int, hidden: int, layer: int) -> int:
    return count * tokens * layer


def _checkpointed(count: int, tokens: int, hidden: int, layer: int) -> int:
    return count * tokens * hidden + tokens * layer


def _of_pixelllm(
    model: Any, *, images: int, prompts: int, text: int, context: int, logits: int, layers: _Layers
) -> int:
    """Values kept of a step; logits: how often the scores of a token are."""
    config, values = model.config, 0
    for tower in config.vision_config.towers:
        if _trains(model, f"vision_towers.{tower.name}."):
            values += images * sum(_tower(tower, config.image_size, layers))
    rows, prompt, language = images * prompts, config.prompt_config, config.get_text_config()
    reached = _trains(model, "vision_towers.") or _trains(model, "prompt_feature_extractor.")
    if reached:
        cells = config.vision_config.grid_size**2
        tokens = cells + prompt.num_tokens + prompt.max_points + 1
        layer = _layer(prompt.hidden_size, prompt.intermediate_size, False)
        values += layers(prompt.num_hidden_layers, rows * tokens, prompt.hidden_size, layer)
    if reached or _trains(model, "language_model."):
        gated = bool(getattr(language, "is_gated_act", False))
        inner = getattr(language, "d_ff", None) or language.intermediate_size
        layer = _layer(language.hidden_size, inner, gated)
        before = prompt.num_tokens + context
        if config.is_encoder_decoder and hasattr(language, "num_decoder_layers"):
            hidden = language.hidden_size
            values += layers(language.num_hidden_layers, rows * before, hidden, layer)
            values += layers(language.num_decoder_layers, rows * text, hidden, layer + 6 * hidden)
        else:
            values += layers(language.num_hidden_layers, rows * (before + text), language.hidden_size, layer)
        # scores as they are, in float32, and their softmax
        values += rows * text * language.vocab_size * logits
    return values


def _of_pixellm(model: Any, *, images: int, prompts: int, text: int, context: int, logits: int, layers: _Layers) -> int:
    """Likewise of a PixelLM. The longest text is counted as if it were targets alone."""
    config, rows = model.config, images * prompts
    language, codebook, tower = config.get_text_config(), config.codebook_config, config.vision_config
    values, cells = 0, config.grid_size**2
    if _trains(model, "vision_tower."):
        layer = _layer(tower.hidden_size, tower.intermediate_size, False)
        values += layers(tower.num_hidden_layers, images * (cells + 1), tower.hidden_size, layer)
    inner = config.projector_factor * language.hidden_size
    values += images * (config.num_image_tokens + codebook.num_scales * cells) * (2 * inner + language.hidden_size)
    values += images * codebook.num_scales * cells * 4 * codebook.hidden_size  # the neck
    tokens = config.num_image_tokens + context + text
    layer = _layer(language.hidden_size, language.intermediate_size, True)
    values += layers(language.num_hidden_layers, rows * tokens, language.hidden_size, layer)
    values += rows * tokens * language.vocab_size * logits
    targets = rows * (text // codebook.group_size)
    for level in range(codebook.num_scales):
        # a two-way block keeps of a cell what a layer does without its MLP; the maps after it are twice as large
        grid = cells * (4 if level else 1)
        values += targets * grid * codebook.hidden_size * (9 * codebook.num_hidden_layers + 4)
    return values


def _layer(hidden: int, inner: int, gated: bool) -> int:
    """Values that a pre-norm transformer layer keeps of a token: 9 widths, and 2 inner widths (gated: 4)."""
    return 9 * hidden + (4 if gated else 2) * inner


def _tower(tower: Any, canvas: int, layers: _Layers) -> Iterator[int]:
    side, shapes = tower.input_size or canvas, tower.shapes_at
    tower = getattr(tower, "backbone_config", tower)
    depth, patch = (getattr(tower, name, None) for name in ("num_hidden_layers", "patch_size"))
    if depth is not None and isinstance(patch, int):
        inner = getattr(tower, "intermediate_size", None) or int(tower.hidden_size * getattr(tower, "mlp_ratio", 4))
        tokens = (side // patch) ** 2 + 1
        layer = _layer(tower.hidden_size, inner, tower.model_type == "pixelllm_eva02_tower")
        yield layers(depth, tokens, tower.hidden_size, layer)
    else:  # convolutions: each map a few times over
        yield from (6 * channels * cells**2 for channels, cells in shapes(side).values())


def _trains(model: nn.Module, beginning: str) -> bool:
    return any(p.requires_grad for name, p in model.named_parameters() if name.startswith(beginning))
