"""Arithmetic of boxes for the detector: overlap, matching, clipping, and offsets from one box to another.

Boxes are (…,4) xyxy in pixels, all arguments of a function in the same frame. A box of zero area is padding.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

# Offsets may not make a box more than this much larger than the one they start from: exp() would overflow.
LARGEST_GROWTH = math.log(1000.0 / 16)


def box_areas(boxes: Tensor) -> Tensor:
    """(…,4) -> (…)."""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def pairwise_iou(first: Tensor, second: Tensor) -> Tensor:
    """first (…,N,4), second (…,M,4) -> overlap over union (…,N,M); 0 where neither box has an area.

    >>> pairwise_iou(torch.tensor([[0.0, 0, 2, 2]]), torch.tensor([[0.0, 0, 2, 1], [3, 3, 4, 4]])).tolist()
    [[0.5, 0.0]]
    """
    first, second = first.unsqueeze(-2), second.unsqueeze(-3)
    width = torch.minimum(first[..., 2], second[..., 2]) - torch.maximum(first[..., 0], second[..., 0])
    height = torch.minimum(first[..., 3], second[..., 3]) - torch.maximum(first[..., 1], second[..., 1])
    overlap = width.clamp(min=0) * height.clamp(min=0)
    union = box_areas(first) + box_areas(second) - overlap
    return overlap / union.where(union > 0, 1.0)


def generalized_iou(first: Tensor, second: Tensor) -> Tensor:
    """Of boxes (…,4) pair by pair: IoU less the share of their common hull that neither covers, -1..1 (…).

    Two boxes without an area, or hull, have a share of 0.

    >>> generalized_iou(torch.tensor([0.0, 0, 1, 1]), torch.tensor([3.0, 0, 4, 1])).item()
    -0.5
    """
    low, high = torch.maximum(first[..., :2], second[..., :2]), torch.minimum(first[..., 2:], second[..., 2:])
    overlap = (high - low).clamp(min=0).prod(-1)
    union = box_areas(first) + box_areas(second) - overlap
    hull = torch.maximum(first[..., 2:], second[..., 2:]) - torch.minimum(first[..., :2], second[..., :2])
    hull = hull.prod(-1)
    return overlap / union.where(union > 0, 1.0) - (hull - union) / hull.where(hull > 0, 1.0)


def match_boxes(boxes: Tensor, gt_boxes: Tensor, gt_classes: Tensor, *, iou_threshold: float) -> tuple[Tensor, Tensor]:
    """The true box of largest overlap for every box: its index (B,N), and its class (B,N) or 0 below the threshold.

    boxes (B,N,4), gt_boxes (B,M,4) padded with zeros, gt_classes (B,M) with 0 for padding. Of equal overlaps the first
    true box wins.
    """
    if not gt_boxes.shape[-2]:
        index = boxes.new_zeros(boxes.shape[:-1], dtype=torch.long)
        return index, torch.zeros_like(index)
    overlap, index = pairwise_iou(boxes, gt_boxes).max(dim=-1)
    return index, gt_classes.gather(-1, index).masked_fill(overlap < iou_threshold, 0)


def clip_boxes(boxes: Tensor, image_size_hw: Tensor) -> Tensor:
    """boxes (B,N,4), image_size_hw (B,2) -> boxes inside 0..w, 0..h."""
    limits = image_size_hw.to(boxes).flip(-1).repeat(1, 2)[:, None]
    return torch.minimum(boxes, limits).clamp(min=0)


def encode_boxes(boxes: Tensor, anchors: Tensor, weights: Sequence[float]) -> Tensor:
    """The offsets (…,4) dx, dy, dw, dh that lead from anchors to boxes, times weights; both need an area."""
    center, size = _center_and_size(boxes)
    anchor_center, anchor_size = _center_and_size(anchors)
    offsets = torch.cat([(center - anchor_center) / anchor_size, (size / anchor_size).log()], dim=-1)
    return offsets * offsets.new_tensor(weights)


def decode_boxes(offsets: Tensor, anchors: Tensor, weights: Sequence[float]) -> Tensor:
    """The boxes that offsets lead to from anchors; undoes `encode_boxes`."""
    offsets = offsets / offsets.new_tensor(weights)
    anchor_center, anchor_size = _center_and_size(anchors)
    center = offsets[..., :2] * anchor_size + anchor_center
    size = offsets[..., 2:].clamp(max=LARGEST_GROWTH).exp() * anchor_size
    corner = center - 0.5 * size
    return torch.cat([corner, corner + size], dim=-1)


def _center_and_size(boxes: Tensor) -> tuple[Tensor, Tensor]:
    size = boxes[..., 2:] - boxes[..., :2]
    return boxes[..., :2] + 0.5 * size, size


__all__ = ["box_areas", "clip_boxes", "decode_boxes", "encode_boxes", "match_boxes", "pairwise_iou"]
