"""Parity of the two vision towers and of what surrounds them."""

from __future__ import annotations

import re
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ...modeling.configuration_towers import PixelLLMEva02TowerConfig, PixelLLMSamTowerConfig
from ...modeling.vision_eva02 import Eva02VisionTower
from ...modeling.vision_sam import SamVisionTower
from ...modeling.vision_towers import fuse_maps, normalize_pixels, resize_map, valid_size_hw
from ..scenic import convert_module
from ..scenic_hparams import eva02_config, sam_config
from .golden import Computed, Golden


def sam_vit(golden: Golden) -> Computed:
    tower = SamVisionTower(sam_config(golden.hparams)).eval()
    tower.load_state_dict(convert_module("sam_backbone", golden.params))
    return _blocks_and_features(tower.blocks, lambda pixels: tower(pixels)["neck"], golden)


def eva02_vit(golden: Golden) -> Computed:
    tower = Eva02VisionTower(eva02_config(golden.hparams)).eval()
    tower.load_state_dict(convert_module("git_backbone", golden.params))
    return _blocks_and_features(tower.blocks, tower.tokens, golden)


def _blocks_and_features(blocks: nn.ModuleList, run: Callable[[Tensor], Tensor], golden: Golden) -> Computed:
    """`block_i` is what block i gives, `features` what the tower gives; pixels come normalised."""
    computed = Computed()
    hooks = [
        block.register_forward_hook(lambda _m, _i, out, name=f"block_{i}": computed.add({name: out}))
        for i, block in enumerate(blocks)
    ]
    computed.add({"features": run(_channels_first(golden.inputs["image"]))})
    for hook in hooks:
        hook.remove()
    return computed


def utils(golden: Golden) -> Computed:
    """Pixel statistics, the valid part of the canvas, fusion, point grids and the resizing of tables and maps."""
    computed = Computed()
    image, mask = _channels_first(golden.inputs["image"]), golden.inputs["padding_mask"].bool()
    side = golden.hparams["resized_size"]
    for tower, config in (("git", PixelLLMEva02TowerConfig()), ("sam", PixelLLMSamTowerConfig())):
        pixels = normalize_pixels(image, mask, mean=config.image_mean, std=config.image_std).permute(0, 2, 3, 1)
        computed.add({f"{tower}_norm": pixels, f"{tower}_norm_resized": resize_map(pixels, (side, side), "bilinear")})

    eva02, sam = golden.inputs["git_feat"], golden.inputs["sam_feat"]
    sam_hw = sam.shape[1], sam.shape[2]
    computed.add(
        {
            "image_shape_hw": valid_size_hw(mask),
            "concat_plus": fuse_maps([eva02, sam]),
            # Names joined by ',' take the first map's grid; the file was made with SAM's, the smaller one, first.
            "concat_comma_down": fuse_maps([sam, eva02], sam_hw),
        }
    )
    for name, expected in golden.outputs.items():
        if name.startswith("resize_linear_1d"):
            table = golden.inputs["table_1d"][None, :, None]  # 1,L,1,C: a map of one column
            computed.add({name: resize_map(table, (expected.shape[0], 1), "bilinear")[0, :, 0]})
        elif match := re.match(r"resize_(bilinear|bicubic)_", name):
            computed.add({name: resize_map(golden.inputs["map_2d"], (expected.shape[1], expected.shape[2]), match[1])})
        elif name.startswith("grid_"):
            computed.add({name: _named_grid(name)})

    boxes = golden.inputs["boxes"]
    computed.add({"gt_points": in_boxes(boxes, _CORNERS), "prompt_points": in_boxes(boxes, grid_points(2, offset=0.0))})
    return computed


_CORNERS = torch.tensor([[0.0, 0.0], [1.0, 1.0]])


def grid_points(per_side: int, *, offset: float) -> Tensor:
    """A grid over the unit square, row by row: (per_side**2, 2) xy, `offset` cells away from its border."""
    steps = torch.linspace(0.0, 1.0, per_side) if not offset else (torch.arange(per_side) + offset) / per_side
    return torch.stack(torch.meshgrid(steps, steps, indexing="xy"), dim=-1).flatten(0, 1)


def donut_points(per_side: int) -> Tensor:
    """Border of the grid of cell centres, (4 * per_side - 4, 2), in the reference's order: top, right, bottom, left."""
    grid = grid_points(per_side, offset=0.5).unflatten(0, (per_side, per_side))
    return torch.cat([grid[0], grid[1:-1, -1], grid[-1, 1:], grid[1:, 0]])


def in_boxes(boxes_xyxy: Tensor, unit_points: Tensor) -> Tensor:
    """Points of the unit square placed in boxes: (..., 4), (P, 2) -> (..., P, 2)."""
    corner, far = boxes_xyxy[..., None, :2], boxes_xyxy[..., None, 2:]
    return corner + (far - corner) * unit_points


def _named_grid(name: str) -> Tensor:
    if name == "grid_corners":
        return _CORNERS
    _, kind, per_side, *margin = name.split("_")
    if kind == "donut":
        return donut_points(int(per_side))
    return grid_points(int(per_side), offset=0.0 if margin == ["noffset"] else 0.5)


def _channels_first(image: Tensor) -> Tensor:
    return image.permute(0, 3, 1, 2)


__all__ = ["donut_points", "eva02_vit", "grid_points", "in_boxes", "sam_vit", "utils"]
