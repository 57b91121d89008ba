"""Images -> the square canvas of the model: longest side fitted, top left, the rest zero (official.md#canvas)."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image
from transformers.image_processing_backends import PilBackend
from transformers.image_processing_utils import BatchFeature
from transformers.image_utils import SizeDict

from .canvas_transform import CanvasTransform
from .image_reading import MAX_IMAGE_PIXELS, read_image
from .processing_kwargs import PixelLLMImageProcessorKwargs

# transformers' settings for images, with the values that say what is done here anyway; any other would be ignored.
_AS_IT_IS: dict[str, tuple[Any, ...]] = {
    "do_convert_rgb": (True,),
    "do_resize": (True,),
    "do_pad": (True,),
    "do_rescale": (False,),
    "do_normalize": (False,),
    "do_center_crop": (False,),
    "resample": (Image.Resampling.BILINEAR,),
    "rescale_factor": (1 / 255,),  # transformers' own, in every config, of no use without do_rescale
    "data_format": ("channels_first",),
    "device": ("cpu",),
    "input_data_format": (),  # read from the arrays
    "image_mean": (),
    "image_std": (),
    "crop_size": (),
    "pad_size": (),
}


class PixelLLMImageProcessor(PilBackend):
    """Images of any kind and size -> pixel_values, pixel_mask and original_sizes.

    Pillow and numpy only. Pixels stay 0..255: each vision tower normalises for itself. Of transformers' other settings
    for images, those that would change what the model sees are refused.

    Args:
        size: {"height": S, "width": S}, the canvas.
        antialias: average over all source pixels when scaling down. The official recipe (False) interpolates
            between the nearest four, which is noisy for images much larger than the canvas.
        rounding: of the sizes on the canvas, "down" for a PixelLLM and "nearest" for a PixelLM (`fitted_size`).
        max_image_pixels: larger images are refused before they are decoded.
    """

    size = {"height": 384, "width": 384}
    antialias = True
    rounding = "down"
    max_image_pixels = MAX_IMAGE_PIXELS
    do_rescale = False
    do_normalize = False
    valid_kwargs = PixelLLMImageProcessorKwargs
    model_input_names = ["pixel_values", "pixel_mask", "original_sizes"]

    @property
    def canvas(self) -> int:
        """Side of the canvas in pixels."""
        return canvas_side(self.size)

    def _preprocess_image_like_inputs(
        self,
        images: Any,
        *args: Any,
        size: Any = None,
        antialias: bool = True,
        rounding: str = "down",
        max_image_pixels: int = MAX_IMAGE_PIXELS,
        return_tensors: str | None = None,
        **kwargs: Any,
    ) -> BatchFeature:
        """pixel_values (B,3,S,S) float32 0..255, pixel_mask (B,S,S) bool, original_sizes (B,2) int64 (h, w)."""
        given = {name: kwargs[name] for name in _AS_IT_IS if kwargs.get(name) is not None}
        if wanted := [f"{name}={value!r}" for name, value in given.items() if not _says_what_is_done(name, value)]:
            raise ValueError(
                f"{', '.join(wanted)} cannot be had: the model takes whole RGB images, resized bilinearly onto its "
                "canvas, with pixels of 0..255 that each vision tower normalises for itself. Leave it out."
            )
        sources = as_image_list(images)
        side = canvas_side(size)
        pixel_values = np.zeros((len(sources), 3, side, side), dtype=np.float32)
        pixel_mask = np.zeros((len(sources), side, side), dtype=bool)
        original_sizes = np.zeros((len(sources), 2), dtype=np.int64)
        for i, source in enumerate(sources):
            image = read_image(
                source,
                max_pixels=max_image_pixels,
                # Twice the canvas leaves the final resize enough to average over.
                enough=2 * side if antialias else None,
                name=f"image {i}",
            )
            width, height = CanvasTransform.fit(image.size_wh, side, rounding=rounding).resized_size_wh
            pixel_values[i, :, :height, :width] = resize_pixels(image.pixels, (width, height), antialias)
            pixel_mask[i, :height, :width] = True
            original_sizes[i] = image.size_wh[::-1]
        data = {"pixel_values": pixel_values, "pixel_mask": pixel_mask, "original_sizes": original_sizes}
        return BatchFeature(data, tensor_type=return_tensors)


def _says_what_is_done(name: str, value: Any) -> bool:
    return value in _AS_IT_IS[name] or str(value) in _AS_IT_IS[name]  # a torch.device is no text, but reads like one


def canvas_side(size: Any) -> int:
    """The side of the square canvas that a `size` setting means."""
    sides = dict(size) if isinstance(size, (dict, SizeDict)) else {"height": size, "width": size}
    if not sides.get("height") or sides.get("height") != sides.get("width"):
        raise ValueError(f"the canvas must be square, but size is {sides}. Pass size={{'height': 384, 'width': 384}}.")
    return int(sides["height"])


def as_image_list(images: Any) -> list[Any]:
    """One image, a list of them or a batch array (B,…) -> a list of images."""
    if isinstance(images, (list, tuple)):
        sources = list(images)
    elif getattr(images, "ndim", 0) == 4:
        sources = [images[i] for i in range(images.shape[0])]
    else:
        sources = [images]
    if all(isinstance(source, (list, tuple)) and len(source) == 1 for source in sources):
        sources = [source[0] for source in sources]  # a list for each text, as transformers' chats give them
    if not sources:
        raise ValueError("expected at least one image, but the list is empty.")
    for i, source in enumerate(sources):
        if source is None or isinstance(source, (list, tuple)):
            raise ValueError(
                f"images must be a flat list of images, but item {i} is {'None' if source is None else 'a list'}. "
                "Several prompts about one image go into boxes, points or text."
            )
    return sources


def resize_pixels(image: Image.Image, size_wh: tuple[int, int], antialias: bool) -> np.ndarray:
    """RGB image -> (3,h,w) float32, bilinear. Antialiased values are whole numbers, the others are not."""
    if image.size == tuple(size_wh):
        return np.asarray(image, dtype=np.float32).transpose(2, 0, 1)
    if antialias:
        image = image.resize(size_wh, Image.Resampling.BILINEAR, reducing_gap=3.0)
        return np.asarray(image, dtype=np.float32).transpose(2, 0, 1)
    pixels = np.asarray(image, dtype=np.uint8)
    top, bottom, down = _neighbours(pixels.shape[0], size_wh[1])
    left, right, across = _neighbours(pixels.shape[1], size_wh[0])
    across, down = across[None, :, None], down[:, None, None]

    def row(indices: np.ndarray) -> np.ndarray:
        a = pixels[indices[:, None], left[None]].astype(np.float32)
        b = pixels[indices[:, None], right[None]].astype(np.float32)
        return a + (b - a) * across

    upper = row(top)
    return (upper + (row(bottom) - upper) * down).transpose(2, 0, 1)


def _neighbours(old: int, new: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Per new pixel: the two old ones it lies between (half-pixel centres) and how far towards the second."""
    centres = (np.arange(new, dtype=np.float32) + 0.5) * np.float32(old / new) - 0.5
    lower = np.floor(centres)
    first = np.maximum(lower, 0).astype(np.int64)
    second = np.minimum(lower + 1, old - 1).astype(np.int64)
    return np.minimum(first, old - 1), second, (centres - lower).astype(np.float32)


__all__ = ["PixelLLMImageProcessor", "PixelLLMImageProcessorKwargs"]
