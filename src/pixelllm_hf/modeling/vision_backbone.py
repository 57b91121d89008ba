"""Any backbone of transformers' `AutoBackbone` as a vision tower: DINOv2, Swin, ConvNeXt, ViTDet and the rest."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoBackbone
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from .configuration_towers import PixelLLMBackboneTowerConfig
from .linear import with_linear


class BackboneTower(nn.Module):
    """A backbone of transformers whose feature maps are the tower's, by their names in `out_features`."""

    def __init__(self, config: PixelLLMBackboneTowerConfig):
        super().__init__()
        self.config = config
        # A published config names the dtype of its weights; here it is that of the whole model.
        backbone = AutoBackbone.from_config(config.backbone_config, dtype=torch.get_default_dtype())
        self.backbone = with_linear(backbone)

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """pixels (B, 3, H, W), normalised, padding 0 -> a map (B, h, w, C) for each of `out_features`."""
        return maps_of(self.backbone, pixels.to(next(self.backbone.parameters()).dtype))


def maps_of(backbone: nn.Module, pixels: Tensor) -> dict[str, Tensor]:
    """What a backbone gives, channels last, by the names of its features."""
    maps = backbone(pixels).feature_maps
    return {
        name: image_map.permute(0, 2, 3, 1).contiguous()
        for name, image_map in zip(backbone.out_features, maps, strict=True)
    }


def backbone_shapes(config: Any, side: int) -> dict[str, tuple[int, int]]:
    """Channels and cells per side of each map that a backbone of this config gives of a square of `side` pixels.

    The backbone is run without weights and without numbers, which costs next to nothing and holds for all of them:
    configs have no common words for it.
    """
    return dict(_shapes(config.model_type, json.dumps(config.to_dict(), sort_keys=True, default=str), side))


@lru_cache(maxsize=64)
def _shapes(model_type: str, values: str, side: int) -> tuple[tuple[str, tuple[int, int]], ...]:
    config = CONFIG_MAPPING[model_type](**json.loads(values))
    try:
        with torch.device("meta"), torch.no_grad():
            maps = maps_of(AutoBackbone.from_config(config, dtype=torch.float32).eval(), torch.zeros(1, 3, side, side))
        return tuple((name, (image_map.shape[3], image_map.shape[1])) for name, image_map in maps.items())
    except ImportError:
        raise
    except Exception as error:
        raise ValueError(
            f"a backbone of model_type {model_type!r} gives no maps of {side} x {side} pixels ({error}). Set "
            "input_size of the tower to a size that it can see, and leave reshape_hidden_states on where it has that."
        ) from error


__all__ = ["BackboneTower", "backbone_shapes", "maps_of"]
