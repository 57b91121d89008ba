"""Sizes of SAM and EVA02, read off the shapes of their weights (in our names)."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from .weight_sources import WeightSourceError

Shapes = Mapping[str, tuple[int, ...]]
_EVA02_HEAD = 64  # channels of a head in every published size; weights do not tell


def sam_tower_sizes(shapes: Shapes) -> dict[str, Any]:
    """Entries of `PixelLLMSamTowerConfig`. shapes: of the tensors below `vision_towers.tower.`, without that."""
    _, side, _, width = _shape(shapes, "pos_embed", 4)
    patch = _shape(shapes, "patch_embed.proj.weight", 4)[-1]
    depth = _depth(shapes)
    tables = [_shape(shapes, f"blocks.{i}.attn.rel_pos_h", 2) for i in range(depth)]
    windowed = {(rows + 1) // 2 for rows, _ in tables if rows != 2 * side - 1}
    if len(windowed) > 1:
        raise WeightSourceError(f"SAM's blocks must attend within windows of one size, but there are {windowed}.")
    return {
        "hidden_size": width,
        "num_hidden_layers": depth,
        "num_attention_heads": width // tables[0][1],
        "mlp_ratio": _shape(shapes, "blocks.0.mlp.lin1.weight", 2)[0] / width,
        "patch_size": patch,
        "window_size": next(iter(windowed), 14),
        "global_attn_indexes": [i for i, (rows, _) in enumerate(tables) if rows == 2 * side - 1],
        "output_channels": _shape(shapes, "neck.0.weight", 4)[0],
        "pretrain_image_size": side * patch,
    }


def eva02_tower_sizes(shapes: Shapes) -> dict[str, Any]:
    """Entries of `PixelLLMEva02TowerConfig`; shapes as in `sam_tower_sizes`."""
    _, cells, width = _shape(shapes, "pos_embed", 3)
    patch = _shape(shapes, "patch_embed.proj.weight", 4)[-1]
    side = math.isqrt(cells - 1)
    if side * side + 1 != cells or width % _EVA02_HEAD:
        raise WeightSourceError(
            f"EVA02 must have a square table of positions and a class token, and heads of {_EVA02_HEAD} channels, but "
            f"pos_embed has shape {tuple(shapes['pos_embed'])}. Say what the model is with --config."
        )
    return {
        "hidden_size": width,
        "num_hidden_layers": _depth(shapes),
        "num_attention_heads": width // _EVA02_HEAD,
        "intermediate_size": _shape(shapes, "blocks.0.mlp.w3.weight", 2)[1],
        "inner_norm": any(name.endswith("mlp.ffn_ln.weight") for name in shapes),
        "patch_size": patch,
        "pretrain_image_size": side * patch,
    }


def mask_decoder_sizes(shapes: Shapes) -> dict[str, Any]:
    """Entries of `PixelLLMMaskHeadConfig`. shapes: of the tensors below `mask_head.decoder.`, without that."""
    masks, width = _shape(shapes, "mask_tokens.weight", 2)
    inner = _shape(shapes, "transformer.layers.0.cross_attn_token_to_image.q_proj.weight", 2)[0]
    layers = {name for name in shapes if re.fullmatch(r"iou_prediction_head\.layers\.\d+\.weight", name)}
    return {
        "hidden_size": width,
        "decoder_layers": _depth(shapes, "transformer.layers"),
        "intermediate_size": _shape(shapes, "transformer.layers.0.mlp.lin1.weight", 2)[0],
        "attention_downsample_rate": width // inner,
        "num_multimask_outputs": masks - 1,
        "head_hidden_size": _shape(shapes, "iou_prediction_head.layers.0.weight", 2)[0],
        "head_layers": len(layers),
    }


def _depth(shapes: Shapes, blocks: str = "blocks") -> int:
    numbers = {int(m[1]) for name in shapes if (m := re.match(rf"{re.escape(blocks)}\.(\d+)\.", name))}
    if not numbers:
        raise WeightSourceError(f"the weights have no {blocks}.0. Give the file of the whole model.")
    return max(numbers) + 1


def _shape(shapes: Shapes, name: str, axes: int) -> tuple[int, ...]:
    shape = shapes.get(name)
    if shape is None or len(shape) != axes or 0 in shape:
        raise WeightSourceError(
            f"the weights must have {name} with {axes} axes, but "
            f"{'lack it' if shape is None else f'it has shape {tuple(shape)}'}. Give the file of the whole model."
        )
    return shape


__all__ = ["eva02_tower_sizes", "mask_decoder_sizes", "sam_tower_sizes"]
