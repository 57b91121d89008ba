"""Batches of images with their labels: of images alone, or of what the language sources show."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from pixelllm_hf.data.mixing import GroundedBatches
from pixelllm_hf.training.auxiliary.labels import ImageLabels, image_labels
from pixelllm_hf.training.cacheable_images import ImageFiles
from pixelllm_hf.training.pixel_cache import CanvasReader, PixelCache, open_pixel_cache
from pixelllm_hf.training.recipe_values import ConfigError
from pixelllm_hf.training.sources import check_images_stay


class ImageBatches:
    """Batches of cached pixels and labels; batch `index` is a function of the seed and the index alone."""

    def __init__(
        self,
        cache: PixelCache,
        labels: ImageLabels,
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


def image_batches(
    instances: tuple[str, str],
    held_out: tuple[str, str] | None,
    *,
    held_out_fraction: float,
    cache_dir: str,
    canvas: int,
    cells: int,
    batch_size: int,
    seed: int,
    flip: bool = False,
    threads: int | None = None,
) -> tuple[ImageBatches, ImageBatches, ImageLabels]:
    """Training batches, held-out batches and the labels; builds the caches on first use.

    instances, held_out: a COCO instances file and the folder of its images; without the latter the last
    `held_out_fraction` of the images is held out.
    """

    def load(file: str, images: str) -> tuple[PixelCache, ImageLabels, np.ndarray]:
        labels = image_labels(file, images, cache_dir, canvas=canvas, cells=cells)
        read = CanvasReader(canvas)
        cache = open_pixel_cache(ImageFiles(labels.image_files), cache_dir, canvas=canvas, read=read, threads=threads)
        return cache, labels, np.flatnonzero(cache.sizes_hw[:, 0] > 0)

    cache, labels, rows = load(*instances)
    if held_out is not None:
        held_cache, held_labels, held_rows = load(*held_out)
        if (held_labels.class_names, held_labels.attribute_names) != (labels.class_names, labels.attribute_names):
            raise ConfigError(
                f"{held_out[0]!r} and {instances[0]!r} have different categories or attributes, so that their class "
                "numbers differ. Write both with the same lists, or leave eval_instances out."
            )
    else:
        count = max(1, round(len(rows) * held_out_fraction)) if len(rows) > 1 else 0
        held_cache, held_labels, held_rows = cache, labels, rows[len(rows) - count :] if count else rows
        rows = rows[: len(rows) - count] if count else rows
    train = ImageBatches(cache, labels, rows, batch_size=batch_size, seed=seed, flip=flip)
    return train, ImageBatches(held_cache, held_labels, held_rows, batch_size=batch_size, seed=seed), labels


class LabelledBatches:
    """Batches of grounded rows with the labels of their images.

    Needs sources whose images are the same every time, without random scale or flip, and known to the labels.
    """

    def __init__(self, batches: GroundedBatches, labels: ImageLabels, canvas: int):
        self.batches, self.boxes, self.canvas = batches, labels.boxes, canvas
        self.labels = labels.stacked()
        row_of = {file.name: row for row, file in enumerate(labels.image_files)}
        sources: dict[str, Any] = batches.sources
        check_images_stay(sources, "auxiliary")
        self.rows: dict[str, np.ndarray] = {}
        for name, source in sources.items():
            rows = [row_of.get(file) for file in source.file_names]
            if missing := sum(row is None for row in rows):
                raise ConfigError(
                    f"{missing} of {len(rows)} images of source {name!r} are not in auxiliary.instances. Take the "
                    "instances file of the same images."
                )
            self.rows[name] = np.array(rows)

    def batch_at(self, index: int) -> dict[str, Any]:
        batch, plan = self.batches.batch_at(index), self.batches.plan.at(index)
        rows = self.rows[plan.source][list(plan.indices)]
        boxes = self.boxes[rows].astype(np.float32) / self.canvas
        return {
            **batch,
            "auxiliary_labels": torch.from_numpy(self.labels[rows]),
            "auxiliary_boxes": torch.from_numpy(boxes),
        }
