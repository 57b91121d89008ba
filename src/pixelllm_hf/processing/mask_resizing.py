"""Masks of the model's canvas -> masks of the original image."""

from __future__ import annotations

import math

import torch
from torch import Tensor

PIXELS_AT_ONCE = 1 << 20  # of the stretched logits: few enough for the caches


def masks_on_image(
    logits: Tensor, *, canvas_size: int, resized_size_hw: tuple[int, int], image_size_hw: tuple[int, int]
) -> Tensor:
    """Masks of one image at its original size: logits (R,h,w) over the whole canvas -> (R,H,W) bool.

    resized_size_hw is the part of the canvas that the image fills, from its top left; image_size_hw is (H,W). Every
    pixel reads the logits bilinearly at the place of its centre on the canvas, without the cells that are all padding,
    and is inside above 0.

    Where the image ends with a cell this is the rule of the reference, which crops to whole cells, rounded down:
    `evaluation.segmentation_iou.mask_from_logits`. Elsewhere that would stretch a mask by up to a cell.

    >>> masks_on_image(torch.ones(2, 8, 8), canvas_size=32, resized_size_hw=(16, 32), image_size_hw=(3, 6)).shape
    torch.Size([2, 3, 6])
    """
    masks = torch.empty(len(logits), *image_size_hw, dtype=torch.bool, device=logits.device)
    step = max(1, PIXELS_AT_ONCE // max(1, image_size_hw[0] * image_size_hw[1]))
    sizes = {"canvas_size": canvas_size, "resized_size_hw": resized_size_hw, "image_size_hw": image_size_hw}
    _check_shape(logits)
    for start in range(0, len(logits), step):
        masks[start : start + step] = logits_on_image(logits[start : start + step], **sizes) > 0  # type: ignore[arg-type]
    return masks


def logits_on_image(
    logits: Tensor, *, canvas_size: int, resized_size_hw: tuple[int, int], image_size_hw: tuple[int, int]
) -> Tensor:
    """The values that `masks_on_image` compares with 0, (R,H,W) float32."""
    _check_shape(logits)
    cells = [side * n / canvas_size for side, n in zip(resized_size_hw, logits.shape[1:], strict=True)]
    places = [_places(filled, size, logits.device) for filled, size in zip(cells, image_size_hw, strict=True)]
    # No antialiasing on the way down either: the reference resizes with OpenCV.
    stretched = logits.float()
    for axis in (2, 1):  # whole rows are copied faster than columns, and the last copy is the large one
        low, high, share = places[axis - 1]
        share = share if axis == 2 else share[:, None]
        stretched = torch.lerp(stretched.index_select(axis, low), stretched.index_select(axis, high), share)
    return stretched


def _check_shape(logits: Tensor) -> None:
    if logits.ndim != 3:
        raise ValueError(
            f"logits must be (masks, height, width) of one image, but the shape is {tuple(logits.shape)}. "
            "Take the best mask of each row and call once per image."
        )


def _places(filled_cells: float, size: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """The cells on both sides of each pixel's centre and the share of the second, all (size,).

    filled_cells is how many cells the image fills along this axis, size how many pixels it has.
    """
    last = max(math.ceil(filled_cells) - 1, 0)
    centres = torch.arange(size, dtype=torch.float64) + 0.5
    at = (centres * (filled_cells / size) - 0.5).clamp(0, last)
    low = at.floor().long()
    return low.to(device), (low + 1).clamp(max=last).to(device), (at - low).float().to(device)


__all__ = ["logits_on_image", "masks_on_image"]
