"""Masks of the model's canvas -> masks of the original picture."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

PIXELS_AT_ONCE = 1 << 24  # of the stretched logits, which take four bytes each


def masks_on_image(
    logits: Tensor, *, canvas_size: int, resized_size_hw: tuple[int, int], image_size_hw: tuple[int, int]
) -> Tensor:
    """Masks of one image at its original size: logits (R,h,w) over the whole canvas -> (R,H,W) bool.

    resized_size_hw is the part of the canvas that the picture fills, from its top left; image_size_hw is (H,W). The
    part is cropped in whole cells, rounded down, stretched bilinearly and cut at 0, as the reference does.

    >>> masks_on_image(torch.ones(2, 8, 8), canvas_size=32, resized_size_hw=(16, 32), image_size_hw=(3, 6)).shape
    torch.Size([2, 3, 6])
    """
    if logits.ndim != 3:
        raise ValueError(
            f"logits must be (masks, height, width) of one image, but the shape is {tuple(logits.shape)}. "
            "Take the best mask of each row and call once per image."
        )
    rows, cols = (
        max(1, side * cells // canvas_size) for side, cells in zip(resized_size_hw, logits.shape[1:], strict=True)
    )
    valid = logits[:, None, :rows, :cols].float()
    masks = torch.empty(len(logits), *image_size_hw, dtype=torch.bool, device=logits.device)
    step = max(1, PIXELS_AT_ONCE // max(1, image_size_hw[0] * image_size_hw[1]))
    for start in range(0, len(logits), step):
        # No antialiasing on the way down either: the reference resizes with OpenCV.
        stretched = F.interpolate(valid[start : start + step], size=image_size_hw, mode="bilinear", align_corners=False)
        masks[start : start + step] = stretched[:, 0] > 0
    return masks


__all__ = ["masks_on_image"]
