"""Parity of dense captioning: detections, their captions and scores, losses and gradients of the whole model."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...modeling.detections import rescore_with_captions
from ...modeling.losses import IGNORE_INDEX
from ...modeling.prompt_encoder import box_corners
from ...modeling.vision_towers import valid_size_hw
from ..scenic import restore_pixelllm
from .detection import training_values
from .golden import Computed, Golden
from .official_model import decoding_options, filled, greedy_score, official_model
from .token_selection import select_tokens

_NEVER = -1e6  # scores below are of beam slots that the reference never filled


def e2e_densecap(golden: Golden) -> Computed:
    """The model with its proposal head: B images, K slots of boxes each."""
    run, computed = _Run(golden), Computed()
    with torch.no_grad():
        run.detections(computed)
        run.captions(computed)
        run.rescored_beams(computed)
    run.training(computed)
    return computed


class _Run:
    def __init__(self, golden: Golden):
        self.golden = golden
        self.hparams: dict[str, Any] = golden.hparams["model"]
        self.model: Any = official_model(golden)
        inputs = golden.inputs
        self.side = self.model.config.image_size
        self.pixel_mask = inputs["padding_mask"].bool()
        pixels = inputs["image"].permute(0, 3, 1, 2)
        self.image = {"pixel_values": pixels, "pixel_mask": self.pixel_mask}
        self.context = inputs["context_tokens"].long()  # B,K,L, all alike

    def detections(self, computed: Computed) -> None:
        """As in the reference all K slots become prompts, those that hold no object among them."""
        maps = self.model.get_image_features(**self.image)
        found = self.model.proposal_head(maps.fused, (self.side, self.side))
        self.boxes, self.scores = found.boxes, found.scores
        everything = torch.ones_like(found.scores, dtype=torch.bool)
        self.prompts = {"image_features": maps, "prompt_boxes": found.boxes, "prompt_mask": everything}
        visual = self.model.get_visual_tokens(**self.prompts)
        values = {
            "detection_boxes": found.boxes,
            "detection_scores": found.scores,
            "num_detections": found.num_detections,
            "prompt_point_coords": box_corners(found.boxes),
            "visual_features": self._by_image(visual),
        }
        computed.add(values)

    def captions(self, computed: Computed) -> None:
        eos, length = self.hparams["end_token_id"], self.golden.inputs["text_tokens"].shape[-1]
        text = {"input_ids": self.context.flatten(0, 1)}
        output = self.model.generate(**self.prompts, **text, **self._options("greedy"))
        log_probs = self._by_image(greedy_score(output, eos))
        tokens = self._by_image(filled(output.sequences, length, eos))
        computed.add({"text_tokens": tokens, "log_probs": log_probs}, "greedy/")
        computed.add({"detection_scores": rescore_with_captions(self.scores, log_probs)}, "greedy_rescored/")

        output = self.model.generate(**self.prompts, **text, **self._options("beam3"))
        best_last = {  # (B,K,beams,…)
            name: self._by_image(value.unflatten(0, (-1, 3)).flip(1))
            for name, value in (
                ("beam_text_tokens", filled(output.sequences, length, eos)),
                ("beam_log_probs", output.sequences_scores),
            )
        }
        computed.add(best_last, "beam3/")
        was_filled = self.golden.outputs["beam3/beam_log_probs"] > _NEVER
        computed.valid |= {"beam3/beam_log_probs": was_filled, "beam3/beam_text_tokens": was_filled[..., None]}

    def rescored_beams(self, computed: Computed) -> None:
        """All in one call, from pixels to boxes, captions and their scores."""
        eos, length = self.hparams["end_token_id"], self.golden.inputs["text_tokens"].shape[-1]
        output = self.model.generate(
            **self.image, input_ids=self.context[:, 0], detect_objects=True, **self._options("beam3")
        )
        tokens = filled(output.sequences, length, eos)
        values = {
            "detection_boxes": output.prompt_boxes,
            "detection_scores": output.detection_scores,
            "num_detections": output.prompt_mask.sum(1),
            "text_tokens": self._by_image(tokens),
        }
        computed.add(values, "beam3_rescored/")

    def training(self, computed: Computed) -> None:
        """Losses and gradients through `forward(object_boxes=…)`; nothing in the file depends on chance."""
        inputs = self.golden.inputs
        tokens, gt_classes = inputs["text_tokens"].long(), inputs["gt_classes"].long()
        gt_boxes = inputs["gt_boxes"].masked_fill((gt_classes == 0)[..., None], 0.0)
        ids = self.hparams["begin_token_id"], self.hparams["end_token_id"], 0
        keep = select_tokens(tokens, self.hparams["point_output_ignore"], *ids)
        sizes_wh = valid_size_hw(self.pixel_mask).flip(-1).float()
        corners = gt_boxes.unflatten(-1, (2, 2))[:, :, None] / sizes_wh[:, None, None, None]  # B,M,1,2,2
        points = corners.expand(*tokens.shape, 2, 2).masked_fill(~keep[..., None, None], torch.nan)

        self.model.requires_grad_(True).train()
        output = self.model(
            **self.image,
            input_ids=self.context[:, 0],
            object_boxes=gt_boxes,
            object_labels=tokens[..., 1:].masked_fill(tokens[..., 1:] == 0, IGNORE_INDEX),
            point_labels=points[..., 1:, :, :],
        )
        assert output.loss is not None and output.loss_parts is not None
        config = self.model.config
        weights = {"text": config.text_loss_weight, "point": config.point_loss_weight}
        weights["detection"] = config.detection_loss_weight
        for part, loss in output.loss_parts.items():
            name = "det" if part == "detection" else part
            computed.add({f"train/{name}_loss": loss, f"train/{name}_loss_scaled": weights[part] * loss})
        computed.add({"train/total_loss": output.loss})
        output.loss.backward()
        gradients = {name: p.grad for name, p in self.model.named_parameters() if p.grad is not None}
        computed.add(restore_pixelllm(self.golden.params, gradients), "train/grad/")

        head, fused = self.model.proposal_head, self.model.get_image_features(**self.image).fused
        detected, values = training_values(head, fused, (self.side, self.side), gt_boxes, gt_classes)
        assert detected.proposals is not None
        captioned = detected.proposals[:, : head.config.num_caption_proposals]
        index, classes = head.match_captions(captioned, gt_boxes, gt_classes)
        images = torch.arange(len(index))[:, None]
        matched = {
            "matched_gt_boxes": gt_boxes[images, index],
            "matched_gt_classes": classes,
            "matched_gt_text_tokens": tokens[images, index],
        }
        computed.add(values | matched, "train/")

    def _options(self, name: str) -> dict[str, Any]:
        return decoding_options(self.golden, name, per_node_beam=self.hparams["decode_per_node_beam_size"])

    def _by_image(self, rows: Tensor) -> Tensor:
        return rows.unflatten(0, (len(self.context), -1))


__all__ = ["e2e_densecap"]
