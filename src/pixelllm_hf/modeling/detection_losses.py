"""Losses of the detector in its own frame, nominal pixels and strides (official.md#losses)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .box_coding import box_areas, encode_boxes
from .centernet import CenterPredictions

# What the reference writes where a cell has nothing to regress.
NO_TARGET = -1e8
# A centre's Gaussian: boxes shifted by its radius still overlap the true one by this much.
_SMALLEST_OVERLAP = 0.8
_SMALLEST_RADIUS = 4.0  # pixels
_FOCAL_ALPHA, _FOCAL_BETA, _FOCAL_GAMMA = 0.25, 4, 2
_PROBABILITY_MARGIN = 1e-4


@dataclass
class CenterTargets:
    """heatmap (B,m): 1 exactly at centres; distances (B,m,4) in strides, `NO_TARGET / stride` where there is none."""

    heatmap: Tensor
    distances: Tensor


@torch.no_grad()
def center_targets(
    gt_boxes: Tensor, centers: Tensor, strides: Tensor, level_ranges: Sequence[Sequence[int]], cells: Sequence[int]
) -> CenterTargets:
    """gt_boxes (B,M,4) xyxy, M > 0, zero rows for padding -> what every cell should say.

    centers (m,2) and strides (m,) of the cells; level_ranges: half-diagonals that a level is responsible for, in
    pixels; cells: how many each level has. An object draws its Gaussian on all levels, its peak on its own only.
    """
    boxes = gt_boxes.float()[:, None]  # B,1,M,4
    at = centers[:, None]  # m,1,2
    step = strides[:, None, None]
    to_border = torch.cat([at - boxes[..., :2], boxes[..., 2:] - at], dim=-1)  # B,m,M,4
    middle = (boxes[..., :2] + boxes[..., 2:]) / 2
    middle_cell = (middle / step).trunc() * step + step / 2
    is_object = box_areas(boxes) > 0

    ranges = centers.new_tensor(level_ranges).repeat_interleave(torch.as_tensor(cells, device=centers.device), dim=0)
    # The half-diagonal, from the distances and not from the corners: which side of a range it rounds to is theirs.
    half_diagonal = (to_border[..., :2] + to_border[..., 2:]).square().sum(-1).sqrt() / 2
    on_level = (half_diagonal >= ranges[:, :1]) & (half_diagonal <= ranges[:, 1:])
    is_peak = (at == middle_cell).all(-1) & on_level
    near_middle = ((at - middle_cell).abs() <= step).all(-1)
    regresses = near_middle & (to_border.amin(-1) > 0) & on_level & is_object

    delta = (1 - _SMALLEST_OVERLAP) / (1 + _SMALLEST_OVERLAP)
    radius2 = (2 * delta**2 * box_areas(boxes)).clamp(min=_SMALLEST_RADIUS**2)
    distance2 = ((at - middle).square().sum(-1) / radius2).clamp(min=1e-6)  # below 1 everywhere but at peaks
    distance2 = distance2.masked_fill(is_peak, 0.0).masked_fill(~is_object, -NO_TARGET)
    heatmap = (-distance2).exp().amax(-1)
    nearest, index = distance2.masked_fill(~regresses, -NO_TARGET).min(-1)
    targets = to_border.gather(2, index[..., None, None].expand(-1, -1, 1, 4)).squeeze(2)
    targets = targets.masked_fill((nearest == -NO_TARGET)[..., None], NO_TARGET)
    return CenterTargets(heatmap, targets / strides[:, None])


def heatmap_losses(logits: Tensor, heatmap: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Focal loss of centres and of all other cells, and the mean number of centres per image they are divided by.

    logits and heatmap (B,m). Cells near a centre cost less; an image without objects counts as one centre.
    """
    probability = logits.float().sigmoid().clamp(_PROBABILITY_MARGIN, 1 - _PROBABILITY_MARGIN)
    is_center = heatmap == 1
    at_centers = probability.log() * (1 - probability) ** _FOCAL_GAMMA * is_center
    elsewhere = (1 - probability).log() * probability**_FOCAL_GAMMA * (1 - heatmap) ** _FOCAL_BETA
    number = is_center.sum(1).clamp(min=1).float().mean()
    positive = -_FOCAL_ALPHA * at_centers.sum(1).mean() / number
    negative = -(1 - _FOCAL_ALPHA) * elsewhere.sum(1).mean() / number
    return positive, negative, number


def distance_loss(distances: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """1 - GIoU of the boxes around cells that have a target, and the mean number of them per image it is divided by."""
    has_target = targets.amax(-1) >= 0
    number = has_target.sum(1).clamp(min=1).float().mean()
    # Filled, not multiplied: the targets of all other cells are enormous.
    targets = targets.masked_fill(~has_target[..., None], 0.0)
    cost = (1 - _giou_around_point(distances.float(), targets)).masked_fill(~has_target, 0.0)
    return cost.sum(1).mean() / number, number


def _giou_around_point(first: Tensor, second: Tensor) -> Tensor:
    """Generalised overlap of boxes that share a point, given by their distances (…,4) left, top, right, bottom."""

    def area(distances: Tensor) -> Tensor:
        return (distances[..., 0] + distances[..., 2]) * (distances[..., 1] + distances[..., 3])

    overlap = area(torch.minimum(first, second))
    union = area(first) + area(second) - overlap
    hull = area(torch.maximum(first, second))
    return overlap / (union + 1e-6) - (hull - union) / (hull + 1e-6)


def proposal_losses(
    predictions: CenterPredictions, gt_boxes: Tensor, level_ranges: Sequence[Sequence[int]]
) -> dict[str, Tensor]:
    """CenterNet's three losses, "center_positive", "center_negative" and "distance"; gt_boxes (B,M,4) padded with 0."""
    cells = [height * width for height, width in predictions.level_shapes]
    targets = center_targets(gt_boxes, predictions.centers, predictions.strides, level_ranges, cells)
    positive, negative, _ = heatmap_losses(predictions.logits, targets.heatmap)
    distance, _ = distance_loss(predictions.distances, targets.distances)
    return {"center_positive": positive, "center_negative": negative, "distance": distance}


def roi_losses(
    class_logits: Tensor,
    offsets: Tensor,
    boxes: Tensor,
    matched_boxes: Tensor,
    matched_classes: Tensor,
    counted: Tensor,
    box_weights: Sequence[float],
) -> tuple[Tensor, Tensor]:
    """Class and box loss of one stage of the box head.

    class_logits (B,S,2), offsets and boxes (B,S,4); matched_boxes (B,S,4) and matched_classes (B,S) of `match_boxes`;
    counted (B,S): samples that take part. Boxes without an area never do. Offsets count for objects only, but are
    divided by all samples.
    """
    counted = counted & (box_areas(boxes) > 0)
    is_object = counted & (matched_classes > 0)
    cost = F.cross_entropy(class_logits.float().flatten(0, 1), is_object.long().flatten(), reduction="none")
    class_loss = (cost * counted.flatten()).sum() / (counted.sum() + 1e-4)
    wanted = encode_boxes(matched_boxes[is_object].float(), boxes[is_object].float(), box_weights)
    box_loss = (offsets[is_object].float() - wanted).abs().sum() / is_object.numel()
    return class_loss, box_loss


__all__ = [
    "NO_TARGET",
    "CenterTargets",
    "center_targets",
    "distance_loss",
    "heatmap_losses",
    "proposal_losses",
    "roi_losses",
]
