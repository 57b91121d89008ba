"""What the reference does to a training image and its boxes, points and masks (official.md#data).

Images are (..., H, W) tensors, boxes (..., 4) xyxy and points (..., 2) xy in pixels of the image they come with.
Nothing is random unless it takes a generator. Resizing is the processor's own; `TrainingView` adds what only training
does to an image.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from pixelllm_hf.processing.canvas_transform import CanvasTransform, fitted_size
from pixelllm_hf.processing.image_processing_pixelllm import resize_pixels
from pixelllm_hf.processing.tasks import TASK_SPECS


@dataclass(frozen=True)
class Augmentation:
    """Random scale and flip of one task.

    Args:
        scale: range of the longer side, in canvases: 1 fills the canvas, more is cropped, less is padded.
        flip: probability of a horizontal flip.
        flip_text: swap left and right in the texts of a flipped image; one whose texts may not stay true is not
            flipped. Without it texts are not changed, as in the reference.
    """

    scale: tuple[float, float] = (1.0, 1.0)
    flip: float = 0.0
    flip_text: bool = False

    def __post_init__(self) -> None:
        low, high = self.scale
        if not (0 < low <= high and 0 <= self.flip <= 1):
            raise ValueError(
                f"an augmentation needs 0 < scale[0] <= scale[1] and 0 <= flip <= 1, but it is {self}. "
                "scale=(1.0, 1.0), flip=0.0 is none at all."
            )
        if self.flip_text and not self.flip:
            raise ValueError("flip_text changes the texts of flipped images, but flip is 0. Set flip, or leave it out.")


# The released recipes.
REFERENCE_AUGMENTATION = {
    name: Augmentation(spec.training_scale, spec.training_flip) for name, spec in TASK_SPECS.items()
}


def shorter_side_size(size_hw: tuple[int, int], shorter: int) -> tuple[int, int]:
    """Size (h, w) whose shorter side is `shorter`, rounded as the reference does: what COCO captions are tested at.

    Everything else fits the longer side, see `processing.canvas_transform.fitted_size`.

    >>> shorter_side_size((427, 640), 384)
    (384, 575)
    """
    height, width = size_hw
    longer = int(shorter * (max(size_hw) / min(size_hw)))
    return (shorter, longer) if height <= width else (longer, shorter)


def resize_masks(masks: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """(N, H, W) -> (N, h, w), the nearest pixel's value."""
    return F.interpolate(masks[None].float(), size=tuple(size_hw), mode="nearest-exact")[0].to(masks.dtype)


def flip_boxes(boxes_xyxy: Tensor, width: int) -> Tensor:
    """(..., 4) boxes after mirroring the image left to right."""
    x0, y0, x1, y1 = boxes_xyxy.unbind(-1)
    return torch.stack([width - x1, y0, width - x0, y1], dim=-1)


def random_crop_window(
    size_hw: tuple[int, int], crop: int, generator: np.random.Generator
) -> tuple[int, int, int, int]:
    """Top, left, height, width of a random window of at most `crop` x `crop` inside the image."""
    height, width = size_hw
    h, w = min(height, crop), min(width, crop)
    return int(generator.integers(0, height - h + 1)), int(generator.integers(0, width - w + 1)), h, w


def crop_boxes(boxes_xyxy: Tensor, window: tuple[int, int, int, int]) -> Tensor:
    """(..., 4) boxes in the frame of the window, clipped to it; boxes outside it lose their area."""
    return crop_points(boxes_xyxy.unflatten(-1, (2, 2)), window).flatten(-2)


def crop_points(points_xy: Tensor, window: tuple[int, int, int, int]) -> Tensor:
    """(..., 2) points in the frame of the window, clipped to it; none is removed."""
    top, left, height, width = window
    moved = points_xy - points_xy.new_tensor([left, top])
    return moved.clamp(min=0).minimum(points_xy.new_tensor([width, height]))


@dataclass(frozen=True)
class TrainingView:
    """One random look at an image: mirrored or not, resized, cut to a window of at most the canvas.

    window: top, left, height, width in resized pixels.
    """

    transform: CanvasTransform
    window: tuple[int, int, int, int]
    flipped: bool

    @classmethod
    def draw(
        cls,
        image_size_wh: tuple[int, int],
        canvas: int,
        augmentation: Augmentation,
        generator: np.random.Generator,
        *,
        rounding: str = "down",
    ) -> TrainingView:
        """A view drawn as the augmentation says; without one it is what the processor with this rounding shows."""
        flipped = augmentation.flip > 0 and bool(generator.random() < augmentation.flip)
        longest = max(int(canvas * generator.uniform(*augmentation.scale)), 1)
        resized_wh = fitted_size(image_size_wh, longest, rounding=rounding)
        window = random_crop_window(resized_wh[::-1], canvas, generator)
        return cls(CanvasTransform(image_size_wh, resized_wh, canvas), window, flipped)

    @property
    def size_wh(self) -> tuple[int, int]:
        """Size of the unpadded image on the canvas."""
        return self.window[3], self.window[2]

    def image(self, image: Image.Image, *, antialias: bool) -> tuple[Tensor, Tensor]:
        """RGB image, perhaps decoded at reduced size -> canvas (3, S, S) float32 0..255 and its mask (S, S).

        antialias: as in the image processor that the model will be used with.
        """
        top, left, height, width = self.window
        if self.flipped:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        pixels = torch.from_numpy(resize_pixels(image, self.transform.resized_size_wh, antialias))
        return pad_image(pixels[:, top : top + height, left : left + width], self.transform.canvas)

    def boxes(self, boxes_xyxy: Tensor) -> Tensor:
        """(..., 4) in original pixels -> in canvas pixels, clipped to the image; what is cut off loses its area."""
        if self.flipped:
            boxes_xyxy = flip_boxes(boxes_xyxy, self.transform.image_size_wh[0])
        return crop_boxes(self.transform.to_canvas(boxes_xyxy), self.window)

    def mask(self, mask: np.ndarray) -> Tensor:
        """(H, W) mask of the original image -> canvas (S, S) uint8, 1 inside and 0 in the padding.

        The nearest pixel's value: the same as mirroring, `resize_masks` and cropping, with no image in between.
        """
        top, left, height, width = self.window
        rows = _nearest(mask.shape[0], self.transform.resized_size_wh[1], top, height)
        columns = _nearest(mask.shape[1], self.transform.resized_size_wh[0], left, width)
        if self.flipped:
            columns = mask.shape[1] - 1 - columns
        on_canvas = np.zeros((self.transform.canvas, self.transform.canvas), np.uint8)
        on_canvas[:height, :width] = mask[np.ix_(rows, columns)] != 0
        return torch.from_numpy(on_canvas)

    def relative_boxes(self, boxes_xyxy: Tensor) -> Tensor:
        """(..., 4) in original pixels -> in 0..1 of the unpadded image, clipped to it."""
        return self.boxes(boxes_xyxy) / boxes_xyxy.new_tensor(self.size_wh * 2)


def _nearest(size: int, resized: int, start: int, count: int) -> np.ndarray:
    """The pixels of a side of `size` under those numbered `start`, ... of the side resized, by their centres."""
    return (2 * np.arange(start, start + count) + 1) * size // (2 * resized)


def pad_image(image: Tensor, canvas: int) -> tuple[Tensor, Tensor]:
    """(C, h, w) -> (C, S, S) with the image top-left and 0 elsewhere, and the (S, S) mask of its real pixels."""
    channels, height, width = image.shape
    padded = image.new_zeros(channels, canvas, canvas)
    padded[:, :height, :width] = image
    return padded, canvas_mask((width, height), canvas).to(image.device)


def canvas_mask(size_wh: tuple[int, int], canvas: int) -> Tensor:
    """(S, S) bool, True on the pixels of an image of this size at the top left."""
    mask = torch.zeros(canvas, canvas, dtype=torch.bool)
    mask[: size_wh[1], : size_wh[0]] = True
    return mask
