"""Features of boxes, resampled from the levels of a pyramid to a fixed grid (RoIAlign)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.utils.generic import maybe_autocast

from .box_coding import box_areas
from .torchvision_ops import torchvision_ops

# A box of this size, in pixels, reads the level of stride 16 (eq. 1 of the FPN paper).
_CANONICAL_SIZE, _CANONICAL_LEVEL = 224, 4
_SAMPLES = 2  # sampling points per output cell and axis


def roi_align(maps: Sequence[Tensor], boxes: Tensor, strides: Sequence[int], output_size: int) -> Tensor:
    """maps of (B,h,w,C), boxes (B,R,4) xyxy pixels -> (B,R,output_size,output_size,C).

    Strides are those of the maps, powers of 2 in a row. Each box reads one level, chosen by its size. Beyond the border
    of a map everything is zero, as in the reference: nothing is repeated from the edge.
    """
    levels = box_levels(boxes, strides)
    ops = torchvision_ops()
    pooled = _with_matrices if ops is None else _Torchvision(ops)
    features = boxes.new_zeros(*boxes.shape[:2], output_size, output_size, maps[0].shape[-1], dtype=torch.float32)
    # Weights of half precision would move the places that are sampled.
    with maybe_autocast(boxes.device.type, enabled=False):
        for level, (image_map, stride) in enumerate(zip(maps, strides, strict=True)):
            mine = levels == level
            if mine.any():
                features = features + pooled(image_map.float(), boxes.float() / stride, mine, output_size)
    return features.to(maps[0].dtype)


def box_levels(boxes: Tensor, strides: Sequence[int]) -> Tensor:
    """The level that each box reads: (…,4) -> (…) index into strides."""
    first = strides[0].bit_length() - 1
    size = box_areas(boxes.float()).clamp(min=0).sqrt()
    level = (_CANONICAL_LEVEL + (size / _CANONICAL_SIZE + 1e-8).log2()).floor()
    return level.clamp(first, first + len(strides) - 1).long() - first


def _with_matrices(image_map: Tensor, boxes: Tensor, mine: Tensor, output_size: int) -> Tensor:
    """Bilinear sampling as two small matrix products per box, one along each axis.

    image_map (B,h,w,C), boxes (B,R,4) in cells, mine (B,R) -> (B,R,s,s,C), zero for boxes that are not mine.
    """
    height, width = image_map.shape[1:3]
    rows = _axis_weights(boxes[..., 1], boxes[..., 3], height, output_size)
    columns = _axis_weights(boxes[..., 0], boxes[..., 2], width, output_size) * mine[..., None, None]
    # Along the rows for all boxes of an image in one product: (B, R*s, h) @ (B, h, w*C).
    by_row = (rows.flatten(1, 2) @ image_map.flatten(2)).unflatten(-1, (width, -1)).unflatten(1, (-1, output_size))
    return torch.einsum("brqw,brpwc->brpqc", columns, by_row)


def _axis_weights(low: Tensor, high: Tensor, cells: int, output_size: int) -> Tensor:
    """Share of every cell in every output cell along one axis: (B,R) -> (B,R,output_size,cells)."""
    points = output_size * _SAMPLES
    steps = (torch.arange(points, device=low.device) + 0.5) / points
    # Cell i has its centre at i + 0.5.
    at = low[..., None] + (high - low)[..., None] * steps - 0.5
    distance = (at[..., None] - torch.arange(cells, device=low.device)).abs()
    return (1 - distance).clamp(min=0).unflatten(-2, (output_size, _SAMPLES)).mean(-2)


class _Torchvision:
    """The same by torchvision, which repeats the edge of a map: a border of zeros is put around it first."""

    def __init__(self, ops: object):
        self.ops = ops

    def __call__(self, image_map: Tensor, boxes: Tensor, mine: Tensor, output_size: int) -> Tensor:
        padded = F.pad(image_map.permute(0, 3, 1, 2), (1, 1, 1, 1))
        image = mine.nonzero()[:, :1].to(boxes.dtype)
        rois = torch.cat([image, boxes[mine] + 1], dim=1)
        pooled = self.ops.roi_align(  # type: ignore[attr-defined]
            padded, rois, output_size, spatial_scale=1.0, sampling_ratio=_SAMPLES, aligned=True
        )
        features = image_map.new_zeros(*mine.shape, output_size, output_size, image_map.shape[-1])
        features[mine] = pooled.permute(0, 2, 3, 1)
        return features


__all__ = ["box_levels", "roi_align"]
