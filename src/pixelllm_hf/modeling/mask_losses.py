"""The loss of referred masks: focal, dice and the quality that the decoder predicts of itself (official.md#losses)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

# Weights of the reference within its mask loss; the IoU error has weight 1 as well.
FOCAL_WEIGHT, DICE_WEIGHT = 20.0, 1.0
FOCAL_ALPHA, FOCAL_GAMMA = 0.5, 2


def mask_loss(
    logits: Tensor,
    iou_predictions: Tensor,
    masks: Tensor,
    *,
    pixel_mask: Tensor | None = None,
    row_mask: Tensor | None = None,
) -> dict[str, Tensor]:
    """Parts "focal", "dice" and "iou", already weighted, averaged over the rows that count; their sum is the loss.

    logits (R,M,h,w) of M proposals a row, iou_predictions (R,M), masks (R,H,W) on the canvas, true where > 0,
    pixel_mask (R,H,W) > 0 on real pixels, row_mask (R,) > 0 where a row has a mask (both: all by default).
    The best proposal of a row, by its focal and dice losses together, takes both; every proposal's IoU is learnt.
    Padding weighs nothing in the focal loss, but dice and IoU see the whole canvas.
    """
    if masks.ndim != 3 or masks.shape[0] != logits.shape[0]:
        raise ValueError(
            f"masks must be (rows, height, width) on the canvas, one for each of the {logits.shape[0]} rows of "
            f"logits, but the shape is {tuple(masks.shape)}. Drop a channel axis, and padding prompts."
        )
    if row_mask is not None:
        # Rows that do not count are left out and not multiplied by 0: they cost nothing, and no NaN of theirs survives.
        keep = row_mask > 0
        logits, iou_predictions, masks = logits[keep], iou_predictions[keep], masks[keep]
        pixel_mask = None if pixel_mask is None else pixel_mask[keep]
    rows = max(logits.shape[0], 1)
    logits = F.interpolate(logits.float(), size=masks.shape[-2:], mode="bilinear", align_corners=False)
    truth = (masks > 0).float()[:, None].expand_as(logits)
    weights = torch.ones_like(truth[:, :1]) if pixel_mask is None else (pixel_mask > 0).float()[:, None]

    focal = FOCAL_WEIGHT * focal_loss(logits, truth, weights)
    dice = DICE_WEIGHT * dice_loss(logits, truth)
    best = (focal + dice).detach().argmin(1, keepdim=True)
    iou_error = (iou_predictions.float() - mask_iou(logits > 0, truth > 0)).square()
    return {
        "focal": focal.gather(1, best).sum() / rows,
        "dice": dice.gather(1, best).sum() / rows,
        "iou": iou_error.mean(1).sum() / rows,
    }


def focal_loss(logits: Tensor, truth: Tensor, weights: Tensor) -> Tensor:
    """Mean over the pixels with a weight: logits, truth (…,H,W) of 0 and 1, weights (…,H,W) of 0 and 1 -> (…)."""
    cross_entropy = F.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    missed = torch.sigmoid(torch.where(truth > 0, -logits, logits))  # 1 - probability of the truth
    # An alpha of one half weighs objects and background alike.
    alpha = FOCAL_ALPHA * truth + (1 - FOCAL_ALPHA) * (1 - truth)
    losses = alpha * cross_entropy * missed**FOCAL_GAMMA * weights
    return losses.sum((-2, -1)) / weights.sum((-2, -1)).clamp(min=1)


def dice_loss(logits: Tensor, truth: Tensor) -> Tensor:
    """One minus the soft overlap: logits, truth (…,H,W) -> (…). The ones keep an empty mask from dividing by zero."""
    probabilities = logits.sigmoid()
    common = (probabilities * truth).sum((-2, -1))
    return 1 - (2 * common + 1) / (probabilities.sum((-2, -1)) + truth.sum((-2, -1)) + 1)


def mask_iou(ours: Tensor, theirs: Tensor) -> Tensor:
    """Overlap of masks (…,H,W) bool -> (…) float32, 0 where both are empty.

    >>> mask_iou(torch.tensor([[True, True, False]]), torch.tensor([[False, True, True]])).item()
    0.3333333432674408
    """
    common = (ours & theirs).sum((-2, -1))
    return common.float() / (ours | theirs).sum((-2, -1)).clamp(min=1)


__all__ = ["dice_loss", "focal_loss", "mask_iou", "mask_loss"]
