"""The losses of PixelLM's masks: cross-entropy, refined where targets compete for pixels, and dice.

Source: arXiv 2312.02228, section 3.3; the released `dice_loss` and `sigmoid_ce_loss`, which reduce over targets. Logits
and masks are those of one image, at one size; questions of an image do not see each other.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

# The released dice sums pixels in thousands, so that its epsilon does not depend on the image's size.
DICE_SCALE, DICE_EPSILON, COUNT_EPSILON = 1000.0, 1e-6, 1e-8


def mask_cross_entropy(logits: Tensor, masks: Tensor) -> Tensor:
    """logits, masks (K,H,W), masks of 0 and 1 -> scalar, every target alike; 0 for no target."""
    losses = F.binary_cross_entropy_with_logits(logits.float(), masks.float(), reduction="none")
    return losses.flatten(1).mean(1).sum() / (len(logits) + COUNT_EPSILON)


def mask_dice(logits: Tensor, masks: Tensor) -> Tensor:
    """One minus the soft overlap, every target alike: logits, masks (K,H,W) -> scalar; 0 for no target."""
    probabilities, masks = logits.float().sigmoid().flatten(1), masks.float().flatten(1)
    common = 2 * (probabilities / DICE_SCALE * masks).sum(1)
    total = (probabilities / DICE_SCALE).sum(1) + (masks / DICE_SCALE).sum(1)
    dice = 1 - (common + DICE_EPSILON) / (total + DICE_EPSILON)
    return dice.sum() / (len(logits) + COUNT_EPSILON)


def contested_pixels(logits: Tensor, targets_per_question: Sequence[int]) -> Tensor:
    """Pixels that two or more targets of one answer claim: logits (K,H,W) -> (K,H,W) bool, alike for its targets.

    No gradient flows through it. Raises ValueError where targets_per_question does not add up to K.
    """
    counts = [int(count) for count in targets_per_question]
    if sum(counts) != len(logits):
        raise ValueError(
            f"targets_per_question must add up to the {len(logits)} targets of the image, but {counts} adds up to "
            f"{sum(counts)}. Count the targets of every question, zeros too."
        )
    if not len(logits):
        return logits > 0
    claimed = (logits.detach() > 0).split(counts)
    return torch.cat([(answer.sum(0, keepdim=True) >= 2).expand_as(answer) for answer in claimed])


def target_refinement(logits: Tensor, masks: Tensor, targets_per_question: Sequence[int]) -> Tensor:
    """The cross-entropy of contested pixels alone, over the area of the whole image: scalar.

    `mask_cross_entropy + (alpha - 1) * target_refinement` is the paper's loss with weight alpha on contested pixels.
    """
    losses = F.binary_cross_entropy_with_logits(logits.float(), masks.float(), reduction="none")
    losses = losses * contested_pixels(logits, targets_per_question)
    return losses.flatten(1).mean(1).sum() / (len(logits) + COUNT_EPSILON)


def codebook_mask_losses(
    logits: Sequence[Tensor],
    masks: Sequence[Tensor],
    targets_per_question: Sequence[Sequence[int]],
    *,
    refinement_alpha: float,
) -> dict[str, Tensor]:
    """Parts "cross_entropy" and "dice" over a batch, unweighted: every target of the batch counts alike.

    logits, masks: for each image (K_i,H_i,W_i); targets_per_question: for each image, counts that add up to K_i.
    refinement_alpha: weight of contested pixels, 1 for none (as the last released revision trains).
    """
    totals: dict[str, list[Tensor]] = {"cross_entropy": [], "dice": []}
    for ours, truth, counts in zip(logits, masks, targets_per_question, strict=True):
        if ours.shape != truth.shape:
            raise ValueError(
                f"masks must have the shape of the logits, {tuple(ours.shape)}, but have {tuple(truth.shape)}. "
                "Resize the logits to the masks' size first."
            )
        entropy = mask_cross_entropy(ours, truth)
        if refinement_alpha != 1:
            entropy = entropy + (refinement_alpha - 1) * target_refinement(ours, truth, counts)
        totals["cross_entropy"].append(entropy * len(ours))
        totals["dice"].append(mask_dice(ours, truth) * len(ours))
    count = sum(len(ours) for ours in logits) + COUNT_EPSILON
    return {name: torch.stack(values).sum() / count for name, values in totals.items()}


__all__ = [
    "codebook_mask_losses",
    "contested_pixels",
    "mask_cross_entropy",
    "mask_dice",
    "target_refinement",
]
