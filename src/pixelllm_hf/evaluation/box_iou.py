"""Intersection over union of xywh boxes, without the +1 of pixel counts."""

from __future__ import annotations

import numpy as np


def aligned_box_iou(first_xywh: np.ndarray, second_xywh: np.ndarray, *, epsilon: float = 0.0) -> np.ndarray:
    """IoU of boxes (...,4) with boxes (...,4) that broadcast against them -> (...), in their own floating type.

    `epsilon` is added to the union. Without it, two boxes whose union is empty have IoU 0.

    >>> aligned_box_iou(np.array([0.0, 0, 10, 10]), np.array([5.0, 0, 10, 10])).item()
    0.3333333333333333
    """
    first, second = np.asarray(first_xywh), np.asarray(second_xywh)
    low = np.maximum(first[..., :2], second[..., :2])
    high = np.minimum(first[..., :2] + first[..., 2:], second[..., :2] + second[..., 2:])
    sides = np.clip(high - low, 0, None)
    intersection = sides[..., 0] * sides[..., 1]
    union = first[..., 2] * first[..., 3] + second[..., 2] * second[..., 3] - intersection
    if epsilon:
        return intersection / (union + epsilon)
    return np.divide(intersection, union, out=np.zeros_like(intersection), where=union > 0)


def box_iou_matrix(first_xywh: np.ndarray, second_xywh: np.ndarray) -> np.ndarray:
    """boxes (N,4) and (M,4) -> IoU (N,M)."""
    return aligned_box_iou(np.asarray(first_xywh)[:, None], np.asarray(second_xywh)[None])
