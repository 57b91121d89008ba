"""What frozen towers see of every image, computed once: a step then costs the language side alone."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import Tensor, nn

from pixelllm_hf.data.mixing import GroundedBatches
from pixelllm_hf.folders import atomic_folder, remove_leftovers, reserve
from pixelllm_hf.modeling.configuration_vision import FUSED
from pixelllm_hf.modeling.vision_towers import VisionFeatures
from pixelllm_hf.training.config import ConfigError
from pixelllm_hf.training.pixel_cache import PixelCache, damaged_cache
from pixelllm_hf.training.sources import check_pictures_stay

CACHE_VERSION = 2
IMAGES_AT_ONCE = 64


class FeatureCache:
    """Row i holds the maps of image i of a pixel cache: name -> (N,h,w,C) float16, memory-mapped."""

    def __init__(self, folder: Path, mode: Literal["r", "r+"] = "r"):
        try:
            info = json.loads((folder / "shapes.json").read_text(encoding="utf-8"))
            self.maps = {
                name: np.memmap(folder / f"{name}.f16", np.float16, mode, shape=tuple(shape))
                for name, shape in info.items()
            }
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise damaged_cache(folder, error) from error

    def features(self, rows: np.ndarray) -> VisionFeatures:
        """rows (B,) -> what `get_image_features` would give of these images, to half precision."""
        maps = {name: torch.from_numpy(maps[rows]).float() for name, maps in self.maps.items()}
        return VisionFeatures(fused=maps.pop(FUSED), maps=maps)


def open_feature_cache(
    towers: nn.Module,
    pixels: PixelCache,
    cache_dir: str | Path,
    accelerator: Accelerator,
    maps: Sequence[str] | None = None,
) -> FeatureCache:
    """The cache of these pixels and these weights, built on first use by all processes together.

    Weights and pixels are its key, so that other towers never meet features that are not theirs. maps: the maps that
    are kept, by name; the fused one and that of masks by default.
    """
    maps = list(dict.fromkeys(maps or [FUSED, towers.config.mask_map]))
    folder = Path(cache_dir) / f"features-{_digest(towers, pixels, maps)}"
    (missing,) = broadcast_object_list([not folder.is_dir()])  # one looks for all: another run may be making it
    if missing:
        _build(towers, pixels, folder, accelerator, maps)
    return FeatureCache(folder)


class CachedFeatureBatches:
    """Batches that bring `image_features`, looked up instead of computed.

    Needs frozen towers, and sources whose pictures are the same every time: without random scale or flip.
    """

    def __init__(
        self,
        batches: GroundedBatches,
        towers: nn.Module,
        cache_dir: str | None,
        accelerator: Accelerator,
        maps: Sequence[str] | None = None,
    ):
        if cache_dir is None:
            raise ConfigError("cache_features needs data.cache_dir: the folder that receives the features.")
        if any(parameter.requires_grad for parameter in towers.parameters()):
            raise ConfigError(
                "cache_features needs towers that do not train. Add vision_towers to model.freeze, or leave it out."
            )
        self.batches = batches
        self.caches: dict[str, FeatureCache] = {}
        sources: dict[str, Any] = batches.sources
        check_pictures_stay(sources, "cache_features")
        for name, source in sources.items():
            self.caches[name] = open_feature_cache(towers, source.cache, cache_dir, accelerator, maps)

    def batch_at(self, index: int) -> dict[str, Any]:
        batch, plan = self.batches.batch_at(index), self.batches.plan.at(index)
        source: Any = self.batches.sources[plan.source]
        rows = np.array([source.cache_row(row) for row in plan.indices])
        return {**batch, "image_features": self.caches[plan.source].features(rows)}


def _digest(towers: Any, pixels: PixelCache, maps: Sequence[str]) -> str:
    # Also the config: the same weights may be asked for other maps, or see the canvas at another size.
    about = f"{CACHE_VERSION} {pixels.folder.name} {' '.join(maps)} {towers.config.to_json_string()}"
    digest = hashlib.sha256(about.encode())
    for name, tensor in sorted(towers.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().float().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


@torch.no_grad()
def _build(towers: nn.Module, pixels: PixelCache, folder: Path, accelerator: Accelerator, maps: Sequence[str]) -> None:
    towers = towers.to(accelerator.device).eval()
    with ExitStack() as stack:
        temporary = None
        if accelerator.is_main_process:
            remove_leftovers(folder.parent, f"{folder.name}.*")
            temporary = stack.enter_context(atomic_folder(folder, replace=False))
            shapes = {}
            for name, value in _see(towers, pixels, np.arange(min(1, len(pixels))), accelerator, maps).items():
                shapes[name] = [len(pixels), *value.shape[1:]]
                reserve(temporary / f"{name}.f16", 2 * int(np.prod(shapes[name])))
            (temporary / "shapes.json").write_text(json.dumps(shapes), encoding="utf-8")
        (temporary,) = broadcast_object_list([temporary])
        cache = FeatureCache(temporary, "r+")
        own = np.array_split(np.arange(len(pixels)), accelerator.num_processes)[accelerator.process_index]
        for start in range(0, len(own), IMAGES_AT_ONCE):
            rows = own[start : start + IMAGES_AT_ONCE]
            for name, value in _see(towers, pixels, rows, accelerator, maps).items():
                cache.maps[name][rows] = value.half().cpu().numpy()
        for maps in cache.maps.values():
            maps.flush()
        accelerator.wait_for_everyone()
    accelerator.wait_for_everyone()


def _see(
    towers: Any, pixels: PixelCache, rows: np.ndarray, accelerator: Accelerator, maps: Sequence[str]
) -> dict[str, Tensor]:
    values = torch.from_numpy(pixels.pixels[rows]).permute(0, 3, 1, 2).float().to(accelerator.device)
    mask = torch.from_numpy(pixels.pixel_mask(rows)).to(accelerator.device)
    with accelerator.autocast():
        features = towers(values, mask)
    return {name: features[name] for name in maps}
