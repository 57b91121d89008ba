"""Which predicted mask is which annotated one: MUSE's Hungarian matching on sampled points.

Source: PixelLM (arXiv 2312.02228), evaluation of MUSE; the released `HungarianMatcher`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pixelllm_hf.evaluation.batched_assignment import assign_rows

NUM_POINTS = 12544  # 112 x 112, as released


@dataclass(frozen=True)
class MaskMatching:
    """Pairs (predicted[i], annotated[i]), predicted in rising order; cost (P,G) = cross_entropy (P,G) + dice (P,G)."""

    predicted: np.ndarray
    annotated: np.ndarray
    cost: Tensor
    cross_entropy: Tensor
    dice: Tensor


def match_masks(logits: Tensor, masks: Tensor, points: Tensor | None = None) -> MaskMatching:
    """The cheapest one-to-one pairing of predicted logits (P,H,W) with annotated masks (G,H,W) of 0 and 1.

    points (N,2) xy in 0..1 where masks are compared; the released code draws 12544 of them anew at each call, so ties
    fall differently from run to run. By default ours are drawn with one seed. Smaller side first: min(P,G) pairs.
    """
    if points is None:
        points = torch.rand(NUM_POINTS, 2, generator=torch.Generator().manual_seed(0))
    ours, truth = _sampled(logits, points), _sampled(masks, points)
    count = ours.shape[1]
    entropy_if_inside = F.binary_cross_entropy_with_logits(ours, torch.ones_like(ours), reduction="none")
    entropy_if_outside = F.binary_cross_entropy_with_logits(ours, torch.zeros_like(ours), reduction="none")
    entropy = (entropy_if_inside @ truth.T + entropy_if_outside @ (1 - truth).T) / count
    probabilities = ours.sigmoid()
    total = probabilities.sum(1)[:, None] + truth.sum(1)[None]
    dice = 1 - (2 * probabilities @ truth.T + 1) / (total + 1)
    cost = entropy + dice
    predicted, annotated = _assign(cost.double().cpu().numpy())
    return MaskMatching(predicted, annotated, cost, entropy, dice)


def _sampled(masks: Tensor, points: Tensor) -> Tensor:
    """masks (M,H,W), points (N,2) xy -> bilinear values (M,N), zero outside; pixel centres are half a pixel in."""
    grid = (2 * points.to(masks.device).float() - 1)[None, None].expand(len(masks), -1, -1, -1)
    return F.grid_sample(masks[:, None].float(), grid, align_corners=False)[:, 0, 0]


def _assign(cost: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if cost.shape[0] <= cost.shape[1]:
        rows = np.arange(cost.shape[0])
        return rows, assign_rows(cost[None], np.array([len(cost)]))[0]
    columns, rows = np.arange(cost.shape[1]), assign_rows(cost.T[None], np.array([cost.shape[1]]))[0]
    order = np.argsort(rows)
    return rows[order], columns[order]


__all__ = ["NUM_POINTS", "MaskMatching", "match_masks"]
