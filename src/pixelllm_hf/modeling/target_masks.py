"""Masks of the targets that an answer points at: read, decoded and scored alike whatever model wrote the answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers.utils import ModelOutput

from .codebook_decoder import resize_logits
from .codebook_losses import codebook_mask_losses
from .codebook_targets import TokenGroups
from .configuration_pixellm import PixelLMCodebookConfig
from .vision_clip import patch_mask

# Targets are decoded in chunks, so that memory does not grow with their number: each holds maps of its own.
TARGET_CHUNK_SIZE = 16


@dataclass
class AnswerTargets(ModelOutput):
    """The K targets of R answers, row after row in the order they are written.

    row_of_target (K,), target_positions (K,G) of their tokens in the row's sequence, mask_logits (K,h,w) float32 over
    the whole canvas, > 0 inside, mask_scores (K,) mean probability of what is inside the mask and the image, 0 where
    nothing is. incomplete (R,) bool: answers with codebook tokens that belong to no complete target, e.g. cut off by
    the length limit.
    """

    row_of_target: Tensor | None = None
    target_positions: Tensor | None = None
    mask_logits: Tensor | None = None
    mask_scores: Tensor | None = None
    incomplete: Tensor | None = None


def decoded_targets(
    groups: TokenGroups,
    group_states: Tensor,
    image_of_target: Tensor,
    predict: Callable[[Tensor, Tensor], Tensor],
    pixel_mask: Tensor | None = None,
) -> AnswerTargets:
    """group_states (K,G,C) of the groups that were found, image_of_target (K,) -> the targets with their masks.

    predict(group_states, image_of_target) gives logits (k,h,w) of some of the targets. pixel_mask (B,S,S) says what of
    the canvas is image and no padding; all by default.
    """
    of_image = None
    chunks = zip(group_states.split(TARGET_CHUNK_SIZE), image_of_target.split(TARGET_CHUNK_SIZE), strict=True)
    logits = torch.cat([predict(states, images).float() for states, images in chunks])
    if pixel_mask is not None:  # the cells that have some of the image, as for masks at its own size
        of_image = patch_mask(pixel_mask, logits.shape[-1])[image_of_target]
    return AnswerTargets(
        row_of_target=groups.row,
        target_positions=groups.positions,
        mask_logits=logits,
        mask_scores=mask_scores(logits, of_image),
        incomplete=groups.incomplete,
    )


def joined_targets(chunks: Sequence[AnswerTargets]) -> AnswerTargets:
    """The targets of chunks of rows as those of all rows together."""
    names = ("target_positions", "mask_logits", "mask_scores", "incomplete")
    values = {name: torch.cat([chunk[name] for chunk in chunks]) for name in names}
    rows, before = [], 0
    for chunk in chunks:
        rows.append(chunk["row_of_target"] + before)
        before += len(chunk.incomplete)
    return AnswerTargets(row_of_target=torch.cat(rows), **values)


def mask_scores(logits: Tensor, of_image: Tensor | None = None) -> Tensor:
    """Mean probability of the pixels inside, (K,H,W) -> (K,); 0 for an empty mask.

    of_image: (K,H,W) bool, the pixels that count; all by default.
    """
    inside = (logits > 0).float()
    if of_image is not None:
        inside = inside * of_image
    return (logits.sigmoid() * inside).flatten(1).sum(1) / (inside.flatten(1).sum(1) + 1e-6)


def target_mask_loss(
    logits: Tensor,
    masks: Tensor,
    row_of_target: Tensor,
    image_of_row: Tensor,
    sizes_hw: Tensor,
    config: PixelLMCodebookConfig,
) -> Tensor:
    """The weighted mask loss of a batch at the size of the canvas, its padding cut off.

    logits (K,h,w) of the targets row_of_target (K,) in R rows, masks (K,S,S) > 0 inside on the canvas, image_of_row
    (R,), sizes_hw (B,2) of the unpadded images in canvas pixels. Targets compete for pixels within their own answer.
    Raises ValueError where there is not a mask for each target.
    """
    targets, side = len(logits), masks.shape[-1]
    if masks.ndim != 3 or tuple(masks.shape) != (targets, side, side):
        raise ValueError(
            f"mask_labels must be ({targets}, {side}, {side}), a mask on the canvas for each target that is "
            f"written whole, but the shape is {tuple(masks.shape)}. A group of codebook tokens that truncation cut has "
            "no mask: leave its mask out, or the target."
        )
    per_row = torch.bincount(row_of_target, minlength=len(image_of_row))
    image_of_target = image_of_row[row_of_target]
    enlarged = resize_logits(logits, (side, side))
    of_images, truth, counts = [], [], []
    for image, (height, width) in enumerate(sizes_hw.tolist()):
        own = image_of_target == image
        counts.append(per_row[image_of_row == image].tolist())
        of_images.append(enlarged[own, : int(height), : int(width)])
        truth.append((masks[own, : int(height), : int(width)] > 0).float())
    parts = codebook_mask_losses(of_images, truth, counts, refinement_alpha=config.refinement_alpha)
    return config.cross_entropy_weight * parts["cross_entropy"] + config.dice_weight * parts["dice"]


__all__ = ["AnswerTargets", "decoded_targets", "joined_targets", "mask_scores", "target_mask_loss"]
