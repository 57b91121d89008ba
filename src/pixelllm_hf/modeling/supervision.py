"""What a pass is taught: from labels of every kind the tokens that the decoder consumes, and what the heads learn."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from .box_ops import boxes_of_words, last_words
from .language_model import GroundedLanguageModel, packed_texts
from .losses import IGNORE_INDEX, LABELS_TAKEN, GroundedCriterion, GroundedTargets
from .mask_head import MaskHeadOutput
from .point_head import PointHeadOutput
from .proposed_prompts import ProposedPrompts
from .task_generation import lacks_head
from .vision_towers import VisionFeatures, valid_size_hw

if TYPE_CHECKING:
    from .modeling_pixelllm import PixelLLMForGroundedGeneration


@dataclass
class TaughtPass:
    """What the model made of R rows: the consumed tokens (R,T), the first BOS, the states of these and of padding
    (R,T',C), logits (R,T,V), locations (R,T,…), what it sees of images and prompts, and the detector's loss."""

    tokens: Tensor
    text_states: Tensor
    logits: Tensor
    located: PointHeadOutput
    image_features: VisionFeatures | None
    visual_tokens: Tensor | None
    detection_loss: Tensor | None


@dataclass
class Supervision:
    """The labels of one pass, as `forward` takes them. Without `labels` nothing is taught."""

    labels: Tensor | None = None
    label_segments: Tensor | None = None
    text_loss_mask: Tensor | None = None
    point_labels: Tensor | None = None
    visual_labels: Tensor | None = None
    mask_labels: Tensor | None = None
    mask_loss_mask: Tensor | None = None
    target_mask_labels: Tensor | None = None

    def of_proposals(self, found: ProposedPrompts) -> Supervision:
        """Proposals have the labels of their objects."""
        return replace(self, labels=found.labels, point_labels=found.point_labels, visual_labels=None)

    def tokens(
        self, language: GroundedLanguageModel, given: Tensor | None, takes_part: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """The tokens (R,T) that the decoder consumes, the first BOS, and which of them take part (R,T), None = all.

        Of labels (R,T-1) these are BOS and the labels; as in the reference EOS takes no part, nor does the last token
        of a caption that was cut before its EOS. Of several texts in a row (R,1,T,T) says which tokens see which.
        """
        labels, text = self.labels, language.config
        if self.label_segments is not None:
            return self._packed(language)
        if labels is None and given is None:
            raise ValueError(
                f"expected labels or decoder_input_ids to decode, but got neither. {LABELS_TAKEN}: the model smooths "
                "its own text loss, by config.label_smoothing."
            )
        if given is None:
            assert labels is not None
            start = labels.new_full((labels.shape[0], 1), text.decoder_start_token_id)
            tokens = torch.cat([start, labels.masked_fill(labels == IGNORE_INDEX, text.pad_token_id)], dim=1)
            return tokens, F.pad(labels != IGNORE_INDEX, (0, 1))
        if labels is not None and labels.shape != given.shape:
            raise ValueError(
                f"decoder_input_ids beside labels are BOS and all labels but the last, as many as the labels, but the "
                f"shapes are {tuple(given.shape)} and {tuple(labels.shape)}. Leave decoder_input_ids out."
            )
        return given, takes_part

    def _packed(self, language: GroundedLanguageModel) -> tuple[Tensor, Tensor]:
        """The tokens (R,T) that the decoder consumes of several texts in a row, and which see which (R,1,T,T) bool."""
        labels, segments, mask_labels, text = self.labels, self.label_segments, self.mask_labels, language.config
        assert segments is not None
        if labels is None or segments.shape != labels.shape or mask_labels is not None:
            raise ValueError(
                "label_segments tell of labels of the same shape, and go with no mask_labels, but the shapes are "
                f"{tuple(segments.shape)} and {None if labels is None else tuple(labels.shape)}, and mask_labels are "
                f"{'missing' if mask_labels is None else 'there'}. Give masks' labels a row each."
            )
        if not language.texts_can_share_rows:
            raise ValueError("label_segments need a language model that counts places from each other, such as T5.")
        return packed_texts(labels, segments, start=text.decoder_start_token_id, padding=text.pad_token_id)

    def check_masks(self, side: int, *, has_image: bool, has_coordinates: bool) -> None:
        """Raise unless the masks (R,side,side) can be taught."""
        labels, mask_labels = self.labels, self.mask_labels
        assert mask_labels is not None
        if labels is None or not has_image:
            raise ValueError(
                "mask_labels need labels, whose last word gives the box, and pixel_values or image_features; "
                f"labels is {'missing' if labels is None else 'there'} and the image is "
                f"{'there' if has_image else 'missing'}. Pass both."
            )
        if not has_coordinates:
            raise ValueError("point_labels and mask_labels need output_coordinates=True, but it is False.")
        rows = len(labels)
        if tuple(mask_labels.shape) != (rows, side, side):
            raise ValueError(
                f"mask_labels must be ({rows}, {side}, {side}), a mask on the canvas for each valid prompt, but the "
                f"shape is {tuple(mask_labels.shape)}. Give masks in the order of the prompts, image after image."
            )

    def losses(
        self,
        model: PixelLLMForGroundedGeneration,
        of_pass: TaughtPass,
        pixel_mask: Tensor | None,
        prompt_mask: Tensor | None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted sum of all losses and its parts by name; pixel_mask (B,S,S), prompt_mask (B,N)."""
        assert self.labels is not None
        sizes_wh = model.row_sizes_wh(pixel_mask, prompt_mask, len(self.labels))
        known = self.labels, sizes_wh, self.text_loss_mask, self.point_labels, self.visual_labels
        targets, masks, target_logits = GroundedTargets(*known), None, None
        if self.target_mask_labels is not None:
            target_logits = self._targets(model, of_pass, targets, pixel_mask, prompt_mask)
        if self.mask_labels is not None:
            masks = self._masks(model, of_pass, targets, pixel_mask, prompt_mask)
        return GroundedCriterion(model.config, model.language_model.padding_id)(
            targets,
            logits=of_pass.logits,
            located=of_pass.located,
            masks=masks,
            detection_loss=of_pass.detection_loss,
            target_logits=target_logits,
        )

    def _masks(
        self,
        model: PixelLLMForGroundedGeneration,
        of_pass: TaughtPass,
        targets: GroundedTargets,
        pixel_mask: Tensor | None,
        prompt_mask: Tensor | None,
    ) -> MaskHeadOutput:
        """The masks of the rows whose last word has a box, of which `targets` learns what belongs to them."""
        features, seen, coordinates = of_pass.image_features, of_pass.visual_tokens, of_pass.located.coordinates
        assert features is not None and seen is not None and coordinates is not None  # see `check_masks`
        assert self.labels is not None and self.mask_labels is not None
        words = last_words(of_pass.tokens, model.config.text_config.eos_token_id)
        boxes = boxes_of_words(coordinates.detach(), words) * targets.sizes_wh.repeat(1, 2)
        rows = boxes.isfinite().all(-1)  # those that were given a box
        rows = rows if self.mask_loss_mask is None else rows & (self.mask_loss_mask > 0)
        images = model.image_of_row(prompt_mask, len(features.fused), len(self.labels))[rows]
        targets.masks = self.mask_labels[rows]
        targets.pixel_mask = None if pixel_mask is None else pixel_mask[images]
        return model.predict_masks(features, seen[rows], of_pass.text_states[rows], boxes[rows], images)

    def _targets(
        self,
        model: PixelLLMForGroundedGeneration,
        of_pass: TaughtPass,
        targets: GroundedTargets,
        pixel_mask: Tensor | None,
        prompt_mask: Tensor | None,
    ) -> Tensor:
        """The logits (K,h,w) of the targets in the labels, of which `targets` learns what belongs to them."""
        masks, features, tokens = self.target_mask_labels, of_pass.image_features, of_pass.tokens
        assert masks is not None
        if model.codebook_head is None:
            raise ValueError(lacks_head("codebook", "points at no targets", "codebook_config"))
        side = model.config.image_size
        if features is None:
            raise ValueError("target_mask_labels need pixel_values or image_features, but the image is missing.")
        if tuple(masks.shape[1:]) != (side, side):
            raise ValueError(
                f"target_mask_labels must be masks on the canvas, (targets, {side}, {side}), but the shape is "
                f"{tuple(masks.shape)}."
            )
        groups, states = model.codebook_head.find(tokens, of_pass.text_states[:, : tokens.shape[1]])
        images = len(features.fused)
        targets.target_masks, targets.row_of_target = masks, groups.row
        targets.image_of_row = model.image_of_row(prompt_mask, images, len(tokens))
        sizes = torch.full((images, 2), side) if pixel_mask is None else valid_size_hw(pixel_mask)
        targets.image_sizes_hw = sizes
        return model.predict_target_masks(features, states, targets.image_of_row[groups.row])


__all__ = ["Supervision", "TaughtPass"]
