"""Canvas-sized pixels of many images in one memory-mapped file: decoding is paid once, then a batch is a copy."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pixelllm_hf.folders import built_once, reserve
from pixelllm_hf.processing.canvas_transform import CanvasTransform
from pixelllm_hf.processing.image_processing_pixelllm import resize_pixels
from pixelllm_hf.processing.image_reading import read_image
from pixelllm_hf.training.cacheable_images import CacheableImages
from pixelllm_hf.training.recipe_values import ConfigError

CACHE_VERSION = 1
ReadCanvas = Callable[[Path | bytes], tuple[np.ndarray, tuple[int, int], tuple[int, int]]]


@dataclass(frozen=True)
class CanvasReader:
    """An image file on the canvas, exactly as the processor puts it there (with antialiasing: whole-number pixels).

    `reader(path or bytes)` -> canvas pixels (S, S, 3) uint8, the image's (h, w) on it, the file's (h, w).
    """

    canvas: int

    def __call__(self, file: Path | bytes) -> tuple[np.ndarray, tuple[int, int], tuple[int, int]]:
        image = read_image(file, enough=2 * self.canvas)
        width, height = CanvasTransform.fit(image.size_wh, self.canvas).resized_size_wh
        pixels = np.zeros((self.canvas, self.canvas, 3), np.uint8)
        pixels[:height, :width] = resize_pixels(image.pixels, (width, height), antialias=True).transpose(1, 2, 0)
        return pixels, (height, width), (image.size_wh[1], image.size_wh[0])


class PixelCache:
    """Row i is image i of the list it was built from.

    pixels (N, S, S, 3) uint8, RGB, image at the top left, 0 in the padding; sizes_hw (N, 2) of the image on the
    canvas; original_sizes_hw (N, 2) of the file. An image that could not be read has size 0 and its name is in `bad`.
    """

    def __init__(self, folder: Path):
        self.folder = Path(folder)
        try:
            info = json.loads((self.folder / "info.json").read_text(encoding="utf-8"))
            self.canvas: int = info["canvas"]
            self.bad: dict[str, str] = info["bad"]
            sizes = np.load(self.folder / "sizes.npy")
            self.sizes_hw, self.original_sizes_hw = sizes[:, 0], sizes[:, 1]
            shape = (len(sizes), self.canvas, self.canvas, 3)
            self.pixels = (
                np.memmap(self.folder / "pixels.u8", np.uint8, "r", shape=shape) if len(sizes) else np.zeros(shape)
            )
            self._rows = {name: row for row, name in enumerate(info["paths"])}
        except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
            raise damaged_cache(self.folder, error) from error

    def __len__(self) -> int:
        return len(self.pixels)

    def row(self, name: str) -> int | None:
        """The row of an image by its name in the list, None if the cache does not have it."""
        return self._rows.get(name)

    def pixel_mask(self, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """(R, S, S) bool, True on real pixels."""
        axis = np.arange(self.canvas)
        height, width = self.sizes_hw[np.asarray(rows)].T
        return (axis < height[:, None])[:, :, None] & (axis < width[:, None])[:, None, :]


def open_pixel_cache(
    images: CacheableImages, cache_dir: str | Path, *, canvas: int, read: ReadCanvas, threads: int | None = None
) -> PixelCache:
    """The cache of these images in `cache_dir`, built on first use.

    `read(file or bytes)` gives the canvas pixels, the image's size on it and the file's size, both (h, w). Threads
    build it (Pillow decodes and resizes without the interpreter's lock), so that it can be built at any time, by any
    program.
    """
    name = f"{getattr(read, '__module__', '')}.{getattr(read, '__qualname__', type(read).__qualname__)}"
    digest = hashlib.sha256(json.dumps([CACHE_VERSION, canvas, name, images.key]).encode()).hexdigest()[:16]
    folder = Path(cache_dir) / f"pixels-{canvas}-{digest}"
    workers = threads or os.cpu_count() or 1
    return PixelCache(built_once(folder, lambda temporary: _build(images, temporary, canvas, read, workers)))


def damaged_cache(folder: Path, error: Exception) -> ConfigError:
    return ConfigError(f"The cache {str(folder)!r} is damaged ({error}). Delete it; the next run makes it anew.")


def _build(images: CacheableImages, folder: Path, canvas: int, read: ReadCanvas, threads: int) -> None:
    number = len(images.names)
    pixel_file = folder / "pixels.u8"
    reserve(pixel_file, number * canvas * canvas * 3)
    pixels = np.memmap(pixel_file, np.uint8, "r+", shape=(number, canvas, canvas, 3)) if number else None
    sizes = np.zeros((number, 2, 2), np.int32)
    bad: dict[str, str] = {}

    def fill(row: int) -> None:
        try:
            pixels[row], *sizes[row] = read(images[row])  # type: ignore[index]
        except (OSError, ValueError) as error:
            bad[images.names[row]] = str(error)

    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(fill, range(number)):
            pass
    if pixels is not None:
        pixels.flush()
    np.save(folder / "sizes.npy", sizes)
    info = {"canvas": canvas, "paths": images.names, "bad": bad}
    (folder / "info.json").write_text(json.dumps(info), encoding="utf-8")
