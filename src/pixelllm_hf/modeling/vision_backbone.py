"""Any backbone of transformers' `AutoBackbone` as a vision tower: DINOv2, Swin, ConvNeXt, ViTDet and the rest."""

from __future__ import annotations

import copy
import json
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoBackbone
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.utils import is_timm_available

from .configuration_towers import TIMM, PixelLLMBackboneTowerConfig
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
    if getattr(backbone, "num_features", None) is not None:  # timm's: some have channels last already
        last = [i.shape[-1] == c and i.shape[1] != c for i, c in zip(maps, backbone.channels, strict=True)]
    else:
        last = [False] * len(maps)
    return {
        name: image_map if channels_last else image_map.permute(0, 2, 3, 1).contiguous()
        for name, image_map, channels_last in zip(backbone.out_features, maps, last, strict=True)
    }


def named_by_timm(config: Any) -> Any:
    """The config of a backbone of timm with the names that timm has for its maps; `ImportError` without timm."""
    if not config.backbone:
        raise ValueError(f"a {TIMM!r} must say which of timm's models it is: set its backbone, such as 'resnet18'.")
    if not is_timm_available():
        raise ImportError(
            f"the backbone {config.backbone!r} of model_type {TIMM!r} is a model of the package timm, which is not "
            "installed. Install it (pip install timm torchvision), or choose another backbone: resnet, dinov2."
        )
    try:
        with torch.device("meta"):
            named = AutoBackbone.from_config(copy.deepcopy(config), dtype=torch.float32).config
    except (RuntimeError, ValueError) as error:  # timm's, for a model that it has not, or has not in parts
        raise ValueError(
            f"timm makes no backbone of {config.backbone!r}: {' '.join(str(error).split())[:300]}"
        ) from error
    return named


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


__all__ = ["BackboneTower", "backbone_shapes", "maps_of", "named_by_timm"]
