"""Pixels to named feature maps and their fusion: normalisation per tower, the towers of the config's list."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import initialization as init
from transformers.utils import ModelOutput

from .configuration_towers import PixelLLMTowerConfig, map_name
from .configuration_vision import PixelLLMVisionConfig
from .initialized_layers import InitializesItself
from .vision_backbone import BackboneTower
from .vision_efficientnet_lite import EfficientNetLiteTower
from .vision_eva02 import Eva02VisionTower
from .vision_sam import DropPath, SamVisionTower, resize_map
from .vision_yolox import YoloxTower

# A tower takes pixels (B, 3, S, S), normalised, padding 0, and gives the maps that its config's `map_shapes` declare,
# by their names there: (B, h, w, C), channels last.
TOWERS: dict[str, type[nn.Module]] = {
    "pixelllm_eva02_tower": Eva02VisionTower,
    "pixelllm_sam_tower": SamVisionTower,
    "pixelllm_efficientnet_lite_tower": EfficientNetLiteTower,
    "pixelllm_yolox_tower": YoloxTower,
    "pixelllm_backbone_tower": BackboneTower,
}


MOST_DEVIATIONS = 8.0  # that a channel of a standardised map may be from its mean


@dataclass
class VisionFeatures(ModelOutput):
    """What the towers see, channels last.

    fused (B, h, w, C), the chosen maps joined on one grid; maps: every tower's own maps (B, h, w, C), each at its own
    grid, by the names in `PixelLLMVisionConfig.map_names`. `features[name]` is the map of that name, or `fused`.
    """

    fused: Tensor | None = None
    maps: dict[str, Tensor] | None = None

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, str) and self.maps and key in self.maps:
            return self.maps[key]
        return super().__getitem__(key)

    def narrowed(self, dtype: torch.dtype, exact: Collection[str]) -> VisionFeatures:
        """In half precision where the model is, whatever a tower computes in; the maps named in `exact` as they are."""

        def narrow(image_map: Tensor) -> Tensor:
            wider = image_map.dtype == torch.float32 and dtype in (torch.float16, torch.bfloat16)
            return image_map.to(dtype) if wider else image_map

        assert self.fused is not None and self.maps is not None
        maps = {name: image_map if name in exact else narrow(image_map) for name, image_map in self.maps.items()}
        return VisionFeatures(fused=narrow(self.fused), maps=maps)

    def of_images(self, images: slice) -> VisionFeatures:
        """The features of some of the images."""
        assert self.fused is not None
        maps = None if self.maps is None else {name: image_map[images] for name, image_map in self.maps.items()}
        return VisionFeatures(fused=self.fused[images], maps=maps)


def normalize_pixels(
    pixel_values: Tensor, pixel_mask: Tensor | None, *, mean: Sequence[float], std: Sequence[float]
) -> Tensor:
    """Pixels (B, 3, H, W) of 0..255 -> float32 (B, 3, H, W), exactly 0 where pixel_mask (B, H, W) is False.

    `mean` and `std` are on the 0..255 scale, RGB. Without a mask every pixel counts as real.
    """
    pixels = pixel_values.float()
    pixels = (pixels - pixels.new_tensor(mean).view(3, 1, 1)) / pixels.new_tensor(std).view(3, 1, 1)
    return pixels if pixel_mask is None else pixels.masked_fill(~pixel_mask.bool().unsqueeze(1), 0.0)


def check_canvas(pixel_values: Any, side: int) -> None:
    """Raise unless these are the pixels of images on the model's canvas, (B, 3, side, side)."""
    if not isinstance(pixel_values, Tensor):
        raise ValueError(
            f"pixel_values must be a tensor, but a {type(pixel_values).__name__} came. Make the inputs with "
            'return_tensors="pt", which is the processor\'s default.'
        )
    if pixel_values.ndim != 4 or tuple(pixel_values.shape[1:]) != (3, side, side):
        raise ValueError(
            f"pixel_values must be (images, 3, {side}, {side}), but the shape is {tuple(pixel_values.shape)}. "
            "The model's own processor makes them from any image."
        )


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


@torch.no_grad()
def map_statistics(maps: Iterable[tuple[Tensor, Tensor | None]]) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each channel of maps (B, h, w, C) with their pixel_mask (B, S, S): (C,) each.

    Cells whose middle is padding do not count; a channel that never changes has the deviation 1.
    """
    count, total, squares = 0, 0.0, 0.0
    for fused, pixel_mask in maps:
        if pixel_mask is None:
            cells = fused.flatten(0, 2)
        else:
            rows, columns = (
                ((torch.arange(cells, device=fused.device) + 0.5) / cells * pixels).long()
                for cells, pixels in zip(fused.shape[1:3], pixel_mask.shape[1:], strict=True)
            )
            cells = fused[pixel_mask.bool()[:, rows[:, None], columns]]
        cells = cells.double()
        count, total, squares = count + len(cells), total + cells.sum(0), squares + cells.square().sum(0)
    if not count:
        raise ValueError("there is no image to measure the fused map of.")
    mean = torch.as_tensor(total) / count
    deviation = (torch.as_tensor(squares) / count - mean.square()).clamp(min=0).sqrt()
    return mean.float(), deviation.where(deviation > 1e-6, 1.0).float()


class VisionTowers(InitializesItself, nn.Module):
    """The towers of the config side by side on the same canvas, each under its name.

    Batch norms keep their statistics in every tower. A tower whose config says `frozen` gets no gradients and stays in
    evaluation mode whatever `train()` says; with `drop_path_when_frozen` its drop-path alone follows `train()`, as in
    the reference. With `standardise` the buffers `fused_mean` and `fused_scale` (C,), float32, hold the statistics.
    """

    fused_mean: Tensor
    fused_scale: Tensor

    def __init__(self, config: PixelLLMVisionConfig):
        super().__init__()
        self.config = config
        for tower in config.towers:
            if hasattr(self, tower.name):
                raise ValueError(
                    f"a tower cannot be called {tower.name!r}: torch's modules have that attribute already."
                )
            self.add_module(tower.name, TOWERS[tower.model_type](tower))
        if config.standardise:
            channels = config.feature_channels
            self.register_buffer("fused_mean", torch.zeros(channels, dtype=torch.float32))
            self.register_buffer("fused_scale", torch.ones(channels, dtype=torch.float32))
        self.train(self.training)

    @torch.no_grad()
    def init_weights(self) -> None:
        if self.config.standardise:
            init.zeros_(self.fused_mean)
            init.ones_(self.fused_scale)

    def forward(self, pixel_values: Tensor, pixel_mask: Tensor | None = None) -> VisionFeatures:
        """pixel_values (B, 3, H, W), RGB, 0..255; pixel_mask (B, H, W), True on real pixels, None if all are."""
        return self.standardised(self.seen(pixel_values, pixel_mask))

    def standardised(self, features: VisionFeatures) -> VisionFeatures:
        """What `forward` makes of `seen`: the fused map by its statistics where the config says so."""
        fused = features.fused
        if not self.config.standardise or fused is None:
            return features
        standard = (fused.float() - self.fused_mean.to(fused.device)) / self.fused_scale.to(fused.device)
        standard = standard.clamp(-MOST_DEVIATIONS, MOST_DEVIATIONS).to(fused.dtype)
        return VisionFeatures(fused=standard, maps=features.maps)

    def seen(self, pixel_values: Tensor, pixel_mask: Tensor | None = None) -> VisionFeatures:
        """The same before the fused map is standardised."""
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
        maps: dict[str, Tensor] = {}
        for tower in self.config.towers:
            of_tower = self._run_tower(tower, pixel_values, pixel_mask)
            maps |= {map_name(tower, name): of_tower[name] for name in tower.map_names}
        grid = self.config.fused_grid_size
        fused = fuse_maps([maps[name] for name in self.config.fused_maps], None if grid is None else (grid, grid))
        return VisionFeatures(fused=fused, maps=maps)

    @property
    def has_statistics(self) -> bool:
        """Whether anybody has set what the fused map is standardised by; True where it is not."""
        if not self.config.standardise:
            return True
        return bool(self.fused_mean.any()) or not bool((self.fused_scale == 1).all())

    @torch.no_grad()
    def set_statistics(self, mean: Tensor, scale: Tensor) -> None:
        """Standardise the fused map by these from now on: mean and scale (C,), one number for each of its channels.

        Channels of maps that are plain numbers (see `MapShape`) stay as they are, whatever is given for them.
        """
        if not self.config.standardise:
            raise ValueError("these towers do not standardise their fused map: set vision_config.standardise.")
        for name, values in (("mean", mean), ("scale", scale)):
            if values.shape != self.fused_mean.shape or not bool(values.isfinite().all()):
                raise ValueError(
                    f"{name} must be {len(self.fused_mean)} finite numbers, one for each channel of the fused map, but "
                    f"{int((~values.isfinite()).sum())} of {tuple(values.shape)} are not finite."
                )
        if not bool((scale > 0).all()):
            raise ValueError("every scale must be above 0. A channel that never changes has the scale 1.")
        chosen = torch.tensor(self.config.standardised_channels, device=self.fused_mean.device)
        self.fused_mean.copy_(torch.where(chosen, mean.to(self.fused_mean), 0.0))
        self.fused_scale.copy_(torch.where(chosen, scale.to(self.fused_scale), 1.0))

    @torch.no_grad()
    def measure_statistics(self, batches: Iterable[tuple[Tensor, Tensor | None]]) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of each channel of the fused map before it is standardised, (C,) each.

        batches of pixel_values and pixel_mask as in `forward`. See `map_statistics`.
        """
        seen: Iterable[Any] = ((self.seen(pixels, mask).fused, mask) for pixels, mask in batches)
        return map_statistics(seen)

    def train(self, mode: bool = True) -> VisionTowers:
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()  # a few images would spoil the statistics of millions
        for config in self.config.towers:
            if not config.frozen:
                continue
            # Again on every call: loading replaces the parameters by ones that want gradients, then calls eval().
            tower = self.get_submodule(config.name).eval().requires_grad_(False)
            if config.drop_path_when_frozen:
                for module in tower.modules():
                    if isinstance(module, DropPath):
                        module.train(mode)
        return self

    def _run_tower(
        self, config: PixelLLMTowerConfig, pixel_values: Tensor, pixel_mask: Tensor | None
    ) -> dict[str, Tensor]:
        pixels = normalize_pixels(pixel_values, pixel_mask, mean=config.image_mean, std=config.image_std)
        if config.input_size is not None:
            # After the normalisation, as in the reference: what is resized has zeros for padding already.
            side = (config.input_size, config.input_size)
            pixels = resize_map(pixels.permute(0, 2, 3, 1), side, mode="bilinear").permute(0, 3, 1, 2)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not config.frozen):
            return self.get_submodule(config.name)(pixels)


__all__ = [
    "TOWERS",
    "VisionFeatures",
    "VisionTowers",
    "check_canvas",
    "fuse_maps",
    "map_statistics",
    "normalize_pixels",
    "resize_map",
    "valid_size_hw",
]
