"""Where an image lies on the model's square canvas, and how to get there and back (official.md#canvas)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

ROUNDINGS = ("down", "nearest")

BoxXYXY = tuple[float, float, float, float]  # two corners x0, y0, x1, y1; the frame is said where it is used
BoxXYWH = tuple[float, float, float, float]  # corner and size, as COCO writes boxes


@dataclass(frozen=True)
class CanvasTransform:
    """Longest side fitted to the canvas, placed at its top left; the rest is padding.

    Three frames, all xy, without half-pixel offsets: *image* (pixels of the original, upright image), *canvas*
    (pixels of the model's input) and *normalized* (0..1 of the unpadded image, the frame of the model's answers).
    Every method takes points (..., 2) or boxes (..., 4) as lists, numpy arrays or torch tensors; tensors stay tensors,
    everything else comes back as a float64 array.

    >>> transform = CanvasTransform.fit((640, 480), canvas=384)
    >>> transform.to_canvas([320, 240]).tolist(), transform.to_image([192, 144]).tolist()
    ([192.0, 144.0], [320.0, 240.0])
    """

    image_size_wh: tuple[int, int]
    resized_size_wh: tuple[int, int]
    canvas: int

    @classmethod
    def fit(cls, image_size_wh: Sequence[int], canvas: int, *, rounding: str = "down") -> CanvasTransform:
        """The transform of an image of this size; see `fitted_size` for the rounding."""
        width, height = (int(side) for side in image_size_wh)
        return cls((width, height), fitted_size((width, height), canvas, rounding=rounding), int(canvas))

    @property
    def scale_xy(self) -> tuple[float, float]:
        """Canvas pixels per image pixel; the two differ slightly because sizes are whole numbers."""
        return (
            self.resized_size_wh[0] / self.image_size_wh[0],
            self.resized_size_wh[1] / self.image_size_wh[1],
        )

    @property
    def image_box(self) -> tuple[float, float, float, float]:
        """The whole image as a box, image frame."""
        return (0.0, 0.0, float(self.image_size_wh[0]), float(self.image_size_wh[1]))

    @property
    def canvas_box(self) -> tuple[float, float, float, float]:
        """The whole image as a box on the canvas: the prompt that means "everything"."""
        return (0.0, 0.0, float(self.resized_size_wh[0]), float(self.resized_size_wh[1]))

    def to_canvas(self, xy: Any) -> Any:
        """image -> canvas."""
        return _scaled(xy, self.scale_xy)

    def to_image(self, xy: Any) -> Any:
        """canvas -> image."""
        return _scaled(xy, (1 / self.scale_xy[0], 1 / self.scale_xy[1]))

    def normalized_to_image(self, xy: Any) -> Any:
        """normalized -> image."""
        return _scaled(xy, self.image_size_wh)

    def image_to_normalized(self, xy: Any) -> Any:
        """image -> normalized."""
        return _scaled(xy, (1 / self.image_size_wh[0], 1 / self.image_size_wh[1]))

    def normalized_to_canvas(self, xy: Any) -> Any:
        """normalized -> canvas."""
        return _scaled(xy, self.resized_size_wh)

    def canvas_to_normalized(self, xy: Any) -> Any:
        """canvas -> normalized."""
        return _scaled(xy, (1 / self.resized_size_wh[0], 1 / self.resized_size_wh[1]))

    def clip_to_image(self, xy: Any) -> Any:
        """Move what lies outside the image to its border, image frame. NaN stays NaN."""
        limits = _per_coordinate(xy, self.image_size_wh)
        if hasattr(xy, "new_tensor"):
            return xy.clamp(min=0).minimum(xy.new_tensor(limits))
        return np.clip(np.asarray(xy, dtype=np.float64), 0.0, limits)


def fitted_size(image_size_wh: Sequence[int], longest: int, *, rounding: str = "down") -> tuple[int, int]:
    """(w, h) of an image resized so that its longer side is about `longest`. No side gets shorter than one pixel.

    rounding: each model was trained with one of `ROUNDINGS`. PixelLLM's reference rounds "down" twice: the shorter
    side, then the longer side computed back from it, which may so come out below `longest` (427 x 640 at 384 gives
    256 x 383). PixelLM, as SAM, rounds both sides to the "nearest", `int(side * scale + 0.5)`.

    >>> fitted_size((640, 427), 384), fitted_size((640, 427), 384, rounding="nearest")
    ((383, 256), (384, 256))
    """
    if rounding not in ROUNDINGS:
        raise ValueError(f"rounding must be one of {', '.join(ROUNDINGS)}, but it is {rounding!r}.")
    width, height = (int(side) for side in image_size_wh)
    if width < 1 or height < 1:
        raise ValueError(f"an image needs at least one pixel, but its size is {width} x {height}. Leave it out.")
    if longest < 1:
        raise ValueError(f"the canvas needs at least one pixel, but its side is {longest}.")
    short, long = min(width, height), max(width, height)
    if rounding == "nearest":
        scale = longest / long
        return max(1, int(width * scale + 0.5)), max(1, int(height * scale + 0.5))
    new_short = max(1, longest * short // long)
    # One pixel is more than a sliver deserves; then the way back would leave the canvas.
    new_long = max(1, min(longest, new_short * long // short))
    return (new_long, new_short) if width >= height else (new_short, new_long)


def xywh_to_xyxy(boxes: Any) -> Any:
    """Boxes (..., 4) given as corner and size -> the two corners, same frame.

    >>> xywh_to_xyxy([10, 20, 30, 40]).tolist()
    [10.0, 20.0, 40.0, 60.0]
    """
    if not hasattr(boxes, "new_tensor"):
        boxes = np.asarray(boxes, dtype=np.float64)
    result = boxes + 0  # a copy for arrays and tensors alike
    result[..., 2:] += boxes[..., :2]
    return result


def xyxy_to_xywh(boxes: Any) -> np.ndarray:
    """Boxes (..., 4) given as two corners -> corner and size, float64, same frame.

    >>> xyxy_to_xywh([10, 20, 40, 60]).tolist()
    [10.0, 20.0, 30.0, 40.0]
    """
    boxes = np.array(boxes, dtype=np.float64)
    boxes[..., 2:] -= boxes[..., :2]
    return boxes


def _scaled(xy: Any, scale_xy: Sequence[float]) -> Any:
    factors = _per_coordinate(xy, scale_xy)
    if hasattr(xy, "new_tensor"):
        xy = xy if xy.is_floating_point() else xy.float()
        return xy * xy.new_tensor(factors)
    return np.asarray(xy, dtype=np.float64) * np.asarray(factors, dtype=np.float64)


def _per_coordinate(xy: Any, pair: Sequence[float]) -> list[float]:
    """An x and a y value, repeated for points (2) or boxes (4)."""
    width = np.shape(xy)[-1] if np.ndim(xy) else 0
    if width not in (2, 4):
        raise ValueError(f"expected points (..., 2) or boxes (..., 4), but the shape is {tuple(np.shape(xy))}.")
    return [float(value) for value in pair] * (width // 2)


__all__ = ["ROUNDINGS", "BoxXYWH", "BoxXYXY", "CanvasTransform", "fitted_size", "xywh_to_xyxy", "xyxy_to_xywh"]
