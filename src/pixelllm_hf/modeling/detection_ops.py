"""Operators on boxes and maps that detectors share: suppression of overlapping boxes, and features of boxes (RoIAlign).

torchvision's are taken where it is installed; everything works without it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.utils.generic import maybe_autocast

from .box_coding import box_areas, pairwise_iou

# A box of this size, in pixels, reads the level of stride 16 (eq. 1 of the FPN paper).
_CANONICAL_SIZE, _CANONICAL_LEVEL = 224, 4
_SAMPLES = 2  # sampling points per output cell and axis


@cache
def torchvision_ops() -> Any | None:
    """The module `torchvision.ops`, or None where torchvision is missing or was built for another torch."""
    try:
        from torchvision import ops
    except (ImportError, RuntimeError):
        return None
    return ops


def greedy_nms(boxes: Tensor, iou_threshold: float) -> Tensor:
    """Which boxes survive: boxes (B,N,4) xyxy, best first -> (B,N) bool.

    A box goes if it overlaps a better survivor by iou_threshold or more. Without an area nothing overlaps.

    >>> greedy_nms(torch.tensor([[[0.0, 0, 4, 4], [0, 0, 4, 3], [0, 0, 4, 2]]]), 0.6).tolist()
    [[True, False, True]]
    """
    boxes = boxes.detach().float()
    ops = torchvision_ops()
    if ops is not None:
        return torch.stack([_with_torchvision(ops, of_image, iou_threshold) for of_image in boxes])
    return torch.stack([_survivors(of_image, iou_threshold) for of_image in boxes])


def _survivors(boxes: Tensor, iou_threshold: float) -> Tensor:
    """boxes (N,4) -> (N,) bool.

    Whether a box survives depends on better boxes only. So repeating "suppressed by a survivor", all boxes at once,
    settles at least one more box from the top each time, and what no longer changes is the greedy result. It takes as
    many rounds as the longest chain of boxes that suppress one another, usually a handful.
    """
    suppresses = (pairwise_iou(boxes, boxes) >= iou_threshold).triu(1).to(boxes.dtype)
    keep = torch.ones(len(boxes), dtype=torch.bool, device=boxes.device)
    while True:
        survivors = keep.to(boxes.dtype) @ suppresses == 0
        if torch.equal(survivors, keep):
            return keep
        keep = survivors


def _with_torchvision(ops: object, boxes: Tensor, iou_threshold: float) -> Tensor:
    """The same by torchvision, which suppresses *above* a threshold: hence the next smaller one."""
    below = torch.nextafter(torch.tensor(iou_threshold), torch.tensor(-1.0)).item()
    best_first = torch.arange(len(boxes), 0, -1, dtype=boxes.dtype, device=boxes.device)
    kept = ops.nms(boxes, best_first, below)  # type: ignore[attr-defined]
    return torch.zeros(len(boxes), dtype=torch.bool, device=boxes.device).index_fill_(0, kept, True)


def first_survivors(keep: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Places of the first `count` survivors: keep (B,N) -> index (B,count), filled (B,count) bool.

    Slots that nothing is left for hold the last place, N - 1, and are not filled.
    """
    number = keep.shape[1]
    index = (~keep).to(torch.uint8).sort(dim=1, stable=True).indices[:, :count]
    index = torch.nn.functional.pad(index, (0, count - index.shape[1]), value=number - 1)
    filled = torch.arange(count, device=keep.device) < keep.sum(dim=1, keepdim=True)
    return index.masked_fill(~filled, number - 1), filled


def roi_align(maps: Sequence[Tensor], boxes: Tensor, strides: Sequence[int], output_size: int) -> Tensor:
    """maps of (B,h,w,C), boxes (B,R,4) xyxy pixels -> (B,R,output_size,output_size,C).

    Strides are those of the maps, powers of 2 in a row. Each box reads one level, chosen by its size. Beyond the border
    of a map everything is zero, as in the reference: nothing is repeated from the edge.
    """
    levels = box_levels(boxes, strides)
    ops = torchvision_ops()
    pooled = _with_matrices if ops is None else _Torchvision(ops)
    features = boxes.new_zeros(*boxes.shape[:2], output_size, output_size, maps[0].shape[-1], dtype=torch.float32)
    # Weights of half precision would move the locations that are sampled.
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


__all__ = ["box_levels", "first_survivors", "greedy_nms", "roi_align", "torchvision_ops"]
