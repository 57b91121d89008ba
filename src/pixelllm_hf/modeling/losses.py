"""The criterion of a grounded model: text, point, mask, target and detection losses, weighted as its config says.

The losses of the reference, each over its valid entries only (official.md#losses), and those of how sure a place is,
which it lacks.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .box_coding import generalized_iou
from .box_ops import is_one_of
from .configuration_pixelllm import PixelLLMConfig
from .mask_head import MaskHeadOutput
from .mask_losses import mask_loss
from .point_head import PointHeadOutput
from .target_masks import target_mask_loss

IGNORE_INDEX = -100
# Of error messages that go on with what smooths instead.
LABELS_TAKEN = (
    "If transformers' Trainer has taken the labels out for its label_smoothing_factor or compute_loss_func, leave "
    "these out"
)


@dataclass
class GroundedTargets:
    """What a pass of R rows is taught.

    labels (R,T), IGNORE_INDEX where nothing is; text_loss_mask (R,) > 0 where the text counts; point_labels
    (R,T,P,2) 0..1 of the unpadded image, NaN or all zero where there is no location; sizes_wh (R,2) of that image in
    canvas pixels; visual_labels (R,T) 1 where a token has a location, 0 where it has none, IGNORE_INDEX where that is
    not known. Of the K rows with a mask: masks (K,S,S) > 0 inside and pixel_mask (K,S,S) on the canvas.
    Of the targets that the labels point at: target_masks (K,S,S) on the canvas, row_of_target (K,), image_of_row (R,)
    and image_sizes_hw (B,2) of the unpadded images in canvas pixels.
    """

    labels: Tensor
    sizes_wh: Tensor
    text_loss_mask: Tensor | None = None
    point_labels: Tensor | None = None
    visual_labels: Tensor | None = None
    masks: Tensor | None = None
    pixel_mask: Tensor | None = None
    target_masks: Tensor | None = None
    row_of_target: Tensor | None = None
    image_of_row: Tensor | None = None
    image_sizes_hw: Tensor | None = None


class GroundedCriterion:
    """The weighted sum of the losses, and its unweighted parts by name."""

    def __init__(self, config: PixelLLMConfig, padding_id: int | None):
        """padding_id: of the language model; None where no id is only padding, and labels have `IGNORE_INDEX`."""
        self.config, self.padding_id = config, padding_id

    def __call__(
        self,
        targets: GroundedTargets,
        *,
        logits: Tensor,
        located: PointHeadOutput,
        masks: MaskHeadOutput | None,
        detection_loss: Tensor | None,
        target_logits: Tensor | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """logits (R,T,V) and `located` (R,T,…) of the consumed tokens, masks of the rows that have one, target_logits
        (K,h,w) of the targets."""
        text, parts = self.config.text_config, {}
        if detection_loss is not None:
            parts["detection"] = detection_loss
        labels = targets.labels
        parts["text"] = label_loss(
            logits,
            F.pad(labels, (0, logits.shape[1] - labels.shape[1]), value=IGNORE_INDEX),
            targets.text_loss_mask,
            label_smoothing=self.config.label_smoothing,
            eos_token_id=text.eos_token_id,
            pad_token_id=self.padding_id,
        )
        if targets.point_labels is not None:
            if located.coordinates is None:
                raise ValueError("point_labels and mask_labels need output_coordinates=True, but it is False.")
            parts |= self._point_losses(located, targets)
        if masks is not None:
            of_masks = mask_loss(masks.logits, masks.iou_predictions, targets.masks, pixel_mask=targets.pixel_mask)
            parts["mask"] = torch.stack(list(of_masks.values())).sum()
        if target_logits is not None:
            parts["target"] = target_mask_loss(
                target_logits,
                targets.target_masks,
                targets.row_of_target,
                targets.image_of_row,
                targets.image_sizes_hw,
                self.config.codebook_config,
            )
        weighted = [getattr(self.config, f"{name}_loss_weight") * part for name, part in parts.items()]
        return torch.stack(weighted).sum(), parts

    def _point_losses(self, located: PointHeadOutput, targets: GroundedTargets) -> dict[str, Tensor]:
        """The state that has consumed a label gives its location; BOS has none."""
        assert targets.point_labels is not None and located.coordinates is not None
        placed = located.coordinates.shape[1] - 1  # labels that the decoder has consumed
        labels, points = targets.labels[:, :placed], targets.point_labels[:, :placed].float()
        valid = has_location(points) & (labels != IGNORE_INDEX)
        predicted, points = located.coordinates[:, 1:], points.nan_to_num(0.0)
        parts = {}
        if located.coordinate_scales is None:
            in_pixels = targets.sizes_wh[:, None, None, :]  # R,1,1,2
            parts["point"] = point_loss(predicted * in_pixels, points * in_pixels, valid)
        else:
            parts["point"] = laplace_loss(predicted, located.coordinate_scales[:, 1:], points, valid)
        if self.config.giou_loss_weight:
            parts["giou"] = giou_loss(predicted, points, valid)
        if located.visual_logits is not None and targets.visual_labels is not None:
            visual = targets.visual_labels[:, :placed]
            # A row in which nothing has a location says nothing about locations.
            known = (labels != IGNORE_INDEX) & valid.any(1, keepdim=True)
            parts["visual"] = visual_loss(located.visual_logits[:, 1:], visual.where(known, IGNORE_INDEX))
        return parts


def label_loss(
    logits: Tensor,
    labels: Tensor,
    row_mask: Tensor | None = None,
    *,
    label_smoothing: float,
    eos_token_id: int | list[int] | None,
    pad_token_id: int | None,
) -> Tensor:
    """Cross entropy of the label of each position, over labels that are no padding and whose row counts.

    logits (…,T,V), labels (…,T), padding negative or pad_token_id, row_mask (…) > 0 where a caption counts. A caption
    that begins with EOS is empty and does not count. Smoothing spreads over the V - 1 other tokens.
    """
    vocabulary = logits.shape[-1]
    targets = labels.long()
    valid = (targets >= 0) & ~is_one_of(targets, pad_token_id) & ~is_one_of(targets[..., :1], eos_token_id)
    if row_mask is not None:
        valid = valid & (row_mask[..., None] > 0)
    # torch spreads its smoothing over all V tokens, gold included; scaled up, the others get the same share.
    total = F.cross_entropy(
        logits.flatten(0, -2).float(),
        targets.masked_fill(~valid, IGNORE_INDEX).flatten(),
        ignore_index=IGNORE_INDEX,
        reduction="sum",
        label_smoothing=label_smoothing * vocabulary / (vocabulary - 1),
    )
    return total / (valid.sum() + 1e-8)


def has_location(points: Tensor) -> Tensor:
    """Which labels' points (…,T,P,2) are a location, (…,T) bool: NaN and all zero mean that there is none."""
    return points.isfinite().flatten(-2).all(-1) & (points != 0).flatten(-2).any(-1)


def point_loss(pred: Tensor, target: Tensor, token_mask: Tensor) -> Tensor:
    """Distance (L1) of predicted locations in the frame they come in (canvas pixels), averaged over valid tokens.

    pred and target (…,T,P,2), token_mask (…,T). A target (…,1,P,2), one location for a whole caption, serves all its
    tokens.
    """
    valid = token_mask.bool()
    # Filled, not multiplied: NaN targets where there is no location must not reach the gradient.
    difference = (pred.float() - target.float()).masked_fill(~valid[..., None, None], 0.0)
    return difference.abs().mean((-2, -1)).sum() / valid.sum().clamp(min=1)


def laplace_loss(pred: Tensor, scales: Tensor, target: Tensor, token_mask: Tensor) -> Tensor:
    """Negative log-likelihood of target locations, but for log 2: |difference| / scale + log scale.

    pred, scales and target (…,T,P,2) in one frame, token_mask (…,T); averaged as in `point_loss`. Another frame adds a
    constant and leaves the gradient as it is.
    """
    valid = token_mask.bool()
    difference = (pred - target).masked_fill(~valid[..., None, None], 0.0).abs()
    likelihood = (difference / scales + scales.log()).mean((-2, -1))
    return (likelihood * valid).sum() / valid.sum().clamp(min=1)


def giou_loss(pred: Tensor, target: Tensor, token_mask: Tensor) -> Tensor:
    """1 - generalized IoU (Rezatofighi et al. 2019) of the boxes that a token's two points span, averaged over tokens.

    pred and target (…,T,2,2) in one frame, the upper left corner first; token_mask (…,T). The ratio of areas is the
    same in pixels and in 0..1. A predicted second corner that does not lie below and right of the first gives no area:
    were corners put in order here, a model that has them the wrong way round would be content, against the point loss.
    """
    valid = token_mask.bool()
    first, second = pred.masked_fill(~valid[..., None, None], 0.0).unbind(-2)
    boxes = torch.cat([first, torch.maximum(first, second)], dim=-1)
    loss = (1 - generalized_iou(boxes, target.flatten(-2))) * valid
    return loss.sum() / valid.sum().clamp(min=1)


def visual_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Binary cross entropy of logits (…) with labels (…) 1 or 0, averaged over those that are not IGNORE_INDEX."""
    known = labels != IGNORE_INDEX
    total = F.binary_cross_entropy_with_logits(
        logits, labels.where(known, 0).to(logits), weight=known.to(logits), reduction="sum"
    )
    return total / known.sum().clamp(min=1)


__all__ = [
    "IGNORE_INDEX",
    "LABELS_TAKEN",
    "GroundedCriterion",
    "GroundedTargets",
    "giou_loss",
    "has_location",
    "label_loss",
    "laplace_loss",
    "point_loss",
    "visual_loss",
]
