"""Pixels to one fused feature map: normalisation per tower, the two towers, their fusion (spec sections 1 and 2.3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers.utils import ModelOutput

from .configuration_pixelllm import PixelLLMVisionConfig
from .vision_eva02 import Eva02VisionTower
from .vision_sam import DropPath, SamVisionTower, resize_map


@dataclass
class VisionFeatures(ModelOutput):
    """What the towers see, channels last.

    fused (B, h, w, C_eva02 + C_sam) at the larger grid; eva02 (B, h, w, C) and sam (B, h, w, C) at their own grids.
    """

    fused: Tensor | None = None
    eva02: Tensor | None = None
    sam: Tensor | None = None


def normalize_pixels(
    pixel_values: Tensor, pixel_mask: Tensor | None, *, mean: Sequence[float], std: Sequence[float]
) -> Tensor:
    """Pixels (B, 3, H, W) of 0..255 -> float32 (B, 3, H, W), exactly 0 where pixel_mask (B, H, W) is False.

    `mean` and `std` are on the 0..255 scale, RGB. Without a mask every pixel counts as real.
    """
    pixels = pixel_values.float()
    pixels = (pixels - pixels.new_tensor(mean).view(3, 1, 1)) / pixels.new_tensor(std).view(3, 1, 1)
    return pixels if pixel_mask is None else pixels.masked_fill(~pixel_mask.bool().unsqueeze(1), 0.0)


def valid_size_hw(pixel_mask: Tensor) -> Tensor:
    """Height and width in pixels of the unpadded image: pixel_mask (B, H, W) -> (B, 2) int64.

    >>> valid_size_hw(torch.ones(1, 6, 4, dtype=torch.bool))
    tensor([[6, 4]])
    """
    mask = pixel_mask.bool()
    return torch.stack([mask.any(dim=2).sum(dim=1), mask.any(dim=1).sum(dim=1)], dim=1)


def fuse_maps(maps: Sequence[Tensor], size_hw: tuple[int, int] | None = None) -> Tensor:
    """Maps (B, h_i, w_i, C_i) resized to one grid, joined along channels in the given order: (B, h, w, sum of C_i).

    The grid is `size_hw`, by default the largest height and width among the maps. Grids are taken to cover the same
    area: the few pixels that a tower leaves unused at its border are ignored, as in the reference.
    """
    if size_hw is None:
        size_hw = max(m.shape[1] for m in maps), max(m.shape[2] for m in maps)
    return torch.cat([resize_map(m, size_hw) for m in maps], dim=-1)


class VisionTowers(nn.Module):
    """EVA02 and SAM side by side on the same canvas.

    A tower whose config says `frozen` gets no gradients and stays in evaluation mode whatever `train()` says; with
    `drop_path_when_frozen` its drop-path alone follows `train()`, as in the reference.
    """

    def __init__(self, config: PixelLLMVisionConfig):
        super().__init__()
        self.config = config
        self.eva02 = Eva02VisionTower(config.eva02_config)
        self.sam = SamVisionTower(config.sam_config)
        self.train(self.training)

    def forward(self, pixel_values: Tensor, pixel_mask: Tensor | None = None) -> VisionFeatures:
        """pixel_values (B, 3, H, W), RGB, 0..255; pixel_mask (B, H, W), True on real pixels, None if all are."""
        if pixel_values.ndim != 4 or pixel_values.shape[1] != 3:
            raise ValueError(
                f"pixel_values must be (images, 3, height, width), but the shape is {tuple(pixel_values.shape)}. "
                "The processor makes them from any image."
            )
        expected = (pixel_values.shape[0], *pixel_values.shape[2:])
        if pixel_mask is not None and tuple(pixel_mask.shape) != expected:
            raise ValueError(
                f"pixel_mask must have shape {expected} to match pixel_values, but it has {tuple(pixel_mask.shape)}. "
                "Pass the mask that the processor returned together with these pixels, or None if nothing is padding."
            )
        eva02 = self._see(self.eva02, pixel_values, pixel_mask)
        sam = self._see(self.sam, pixel_values, pixel_mask)
        return VisionFeatures(fused=fuse_maps([eva02, sam]), eva02=eva02, sam=sam)

    def train(self, mode: bool = True) -> VisionTowers:
        super().train(mode)
        for tower in self._frozen_towers():
            # Again on every call: loading replaces the parameters by ones that want gradients, then calls eval().
            tower.eval().requires_grad_(False)
            if tower.config.drop_path_when_frozen:
                for module in tower.modules():
                    if isinstance(module, DropPath):
                        module.train(mode)
        return self

    def _frozen_towers(self) -> list[Eva02VisionTower | SamVisionTower]:
        return [tower for tower in (self.eva02, self.sam) if tower.config.frozen]

    def _see(self, tower: Eva02VisionTower | SamVisionTower, pixel_values: Tensor, pixel_mask: Tensor | None) -> Tensor:
        config = tower.config
        pixels = normalize_pixels(pixel_values, pixel_mask, mean=config.image_mean, std=config.image_std)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not config.frozen):
            return tower(pixels)


__all__ = ["VisionFeatures", "VisionTowers", "fuse_maps", "normalize_pixels", "resize_map", "valid_size_hw"]
