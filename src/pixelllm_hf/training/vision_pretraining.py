"""Teach the vision towers what is where before they meet language: dense labels on the grid of the fused map.

Jointly trained from scratch, a small model stays for long on a plateau where it names nothing; towers that already
tell objects apart make it leave at once.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pixelllm_hf.training.config import ConfigError, OptimizerConfig, RunConfig
from pixelllm_hf.training.dense_heads import DenseHeads, DenseLabelOutput, DenseTaskConfig
from pixelllm_hf.training.dense_labels import DenseLabels, dense_labels
from pixelllm_hf.training.pixel_cache import PixelCache, open_pixel_cache
from pixelllm_hf.training.recipe_values import Few, RecipePart, Share


@dataclass
class DenseDataConfig(RecipePart):
    """Images with COCO instances.

    Args:
        instances, images: COCO instances file and the folder its file names are relative to.
        eval_instances, eval_images: the same, held out; without them the last `eval_fraction` of the images is.
        cache_dir: receives the pixel and label caches; they are keyed by content and may be shared by runs.
        batch_size: images per batch and process.
        flip: mirror half of the images; classes do not mind.
        cache_threads: threads that build the pixel cache; None is one per core.
    """

    instances: str
    images: str
    eval_instances: str | None = None
    eval_images: str | None = None
    eval_fraction: Share = 0.02
    cache_dir: str = "runs/cache"
    batch_size: Few = 32
    flip: bool = False
    cache_threads: Few | None = None


@dataclass
class VisionPretrainConfig(RecipePart):
    """The whole recipe of `scripts/pretrain_vision.py`.

    Args:
        model: preset (`tiny`, `for_tests`, `t5_xl`) or checkpoint folder whose towers are trained.
        vision_weights: an earlier result to go on from, instead of random towers.
    """

    data: DenseDataConfig
    model: str = "tiny"
    vision_weights: str | None = None
    model_overrides: dict[str, Any] = field(default_factory=dict)
    task: DenseTaskConfig = field(default_factory=DenseTaskConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    run: RunConfig = field(default_factory=RunConfig)


class DenseLabeller(nn.Module):
    """The towers and the throw-away heads that teach them."""

    def __init__(self, vision_towers: nn.Module, heads: DenseHeads):
        super().__init__()
        self.vision_towers, self.heads = vision_towers, heads

    def forward(
        self, pixel_values: Tensor, pixel_mask: Tensor, labels: Tensor, boxes: Tensor | None = None
    ) -> DenseLabelOutput:
        """pixel_values (B,3,S,S), pixel_mask (B,S,S); the rest as in `DenseHeads`."""
        return self.heads(self.vision_towers(pixel_values, pixel_mask), labels, boxes)


class DenseBatches:
    """Batches of cached pixels and labels; batch `index` is a function of the seed and the index alone."""

    def __init__(
        self,
        cache: PixelCache,
        labels: DenseLabels,
        rows: np.ndarray,
        *,
        batch_size: int,
        seed: int,
        flip: bool = False,
    ):
        if not len(rows):
            raise ConfigError("No image is left to train on; check the instances file and the image folder.")
        self.cache, self.rows, self.batch_size, self.seed, self.flip = cache, rows, batch_size, seed, flip
        self.labels = labels.stacked()
        self.boxes = labels.boxes
        self._epoch, self._order = -1, rows

    def rows_at(self, index: int) -> np.ndarray:
        """Which images batch `index` shows, as rows of the cache and the labels."""
        first = index * self.batch_size
        return np.array([self._row(i) for i in range(first, first + self.batch_size)])

    def batch_at(self, index: int) -> dict[str, Any]:
        rows = self.rows_at(index)
        pixels = self.cache.pixels[rows]
        mask = self.cache.pixel_mask(rows)
        labels = self.labels[rows]
        boxes = self.boxes[rows].astype(np.float32) / self.cache.canvas
        if self.flip:  # only images that fill the canvas' width: others would move their padding to the left
            full = self.cache.sizes_hw[rows, 1] == self.cache.canvas
            chosen = full & (np.random.default_rng((self.seed, 1, index)).random(len(rows)) < 0.5)
            pixels[chosen] = pixels[chosen][:, :, ::-1]
            labels[chosen] = labels[chosen][..., ::-1]
            mirrored = boxes[chosen][..., ::-1]
            boxes[chosen] = np.stack([1 - mirrored[:, 2], mirrored[:, 1], 1 - mirrored[:, 0], mirrored[:, 3]], axis=1)
        return {
            "pixel_values": torch.from_numpy(pixels).permute(0, 3, 1, 2).float(),
            "pixel_mask": torch.from_numpy(mask),
            "labels": torch.from_numpy(labels),
            "boxes": torch.from_numpy(boxes),
        }

    def _row(self, position: int) -> int:
        epoch, at = divmod(position, len(self.rows))
        if epoch != self._epoch:
            self._epoch = epoch
            self._order = np.random.default_rng((self.seed, 0, epoch)).permutation(self.rows)
        return int(self._order[at])


def dense_batches(
    data: DenseDataConfig, seed: int, *, canvas: int, cells: int
) -> tuple[DenseBatches, DenseBatches, DenseLabels]:
    """Training batches, held-out batches and the labels' names; builds the caches on first use."""
    from pixelllm_hf.training.cacheable_images import ImageFiles
    from pixelllm_hf.training.canvas_reader import CanvasReader

    def load(instances: str, images: str) -> tuple[PixelCache, DenseLabels, np.ndarray]:
        labels = dense_labels(instances, images, data.cache_dir, canvas=canvas, cells=cells)
        read = CanvasReader(canvas)
        cache = open_pixel_cache(
            ImageFiles(labels.image_files), data.cache_dir, canvas=canvas, read=read, threads=data.cache_threads
        )
        rows = np.flatnonzero(cache.sizes_hw[:, 0] > 0)
        return cache, labels, rows

    cache, labels, rows = load(data.instances, data.images)
    if data.eval_instances:
        held_cache, held_labels, held_rows = load(data.eval_instances, data.eval_images or data.images)
        if (held_labels.class_names, held_labels.attribute_names) != (labels.class_names, labels.attribute_names):
            raise ConfigError(
                f"{data.eval_instances!r} and {data.instances!r} have different categories or attributes, so that "
                "their class numbers differ. Write both with the same lists, or leave eval_instances out."
            )
    else:
        count = max(1, round(len(rows) * data.eval_fraction)) if len(rows) > 1 else 0
        held_cache, held_labels, held_rows = cache, labels, rows[len(rows) - count :] if count else rows
        rows = rows[: len(rows) - count] if count else rows
    train = DenseBatches(cache, labels, rows, batch_size=data.batch_size, seed=seed, flip=data.flip)
    held_out = DenseBatches(held_cache, held_labels, held_rows, batch_size=data.batch_size, seed=seed)
    return train, held_out, labels


def save_vision_towers(vision_towers: nn.Module, path: Path, about: Iterable[str] = ()) -> None:
    """The towers' weights as safetensors, named as in the whole model (`vision_towers.…`)."""
    from safetensors.torch import save_file

    state = vision_towers.state_dict()
    tensors = {f"vision_towers.{k}": v.detach().cpu().float().contiguous() for k, v in state.items()}
    save_file(tensors, str(path), metadata={"format": "pt", "classes": "\n".join(about)})
