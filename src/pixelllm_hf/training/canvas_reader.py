"""An image file on the canvas, exactly as the processor puts it there (with antialiasing: whole-number pixels)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pixelllm_hf.processing.canvas_transform import CanvasTransform
from pixelllm_hf.processing.image_processing_pixelllm import resize_pixels
from pixelllm_hf.processing.image_reading import read_image


@dataclass(frozen=True)
class CanvasReader:
    """`reader(path or bytes)` -> canvas pixels (S, S, 3) uint8, the image's (h, w) on it, the file's (h, w)."""

    canvas: int

    def __call__(self, file: Path | bytes) -> tuple[np.ndarray, tuple[int, int], tuple[int, int]]:
        image = read_image(file, enough=2 * self.canvas)
        width, height = CanvasTransform.fit(image.size_wh, self.canvas).resized_size_wh
        pixels = np.zeros((self.canvas, self.canvas, 3), np.uint8)
        pixels[:height, :width] = resize_pixels(image.pixels, (width, height), antialias=True).transpose(1, 2, 0)
        return pixels, (height, width), (image.size_wh[1], image.size_wh[0])
