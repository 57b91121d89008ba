"""Parity of the whole model: features, teacher forcing, decoding, masks, losses and gradients."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutput

from ...modeling.box_ops import points_to_boxes
from ...modeling.losses import IGNORE_INDEX
from ...modeling.mask_head import MaskHeadOutput
from ...modeling.mask_losses import mask_loss
from ...modeling.vision_towers import VisionFeatures, valid_size_hw
from ..scenic import restore_pixelllm
from .golden import Computed, Golden
from .heads import takes_part
from .masks import LOSS_NAMES, sum_of
from .official_model import decoding_options, filled, greedy_score, official_model, without_repeated_end
from .token_selection import select_tokens

_NEVER = -1e6  # scores below are of beam slots that the reference never filled


def e2e_refer(golden: Golden) -> Computed:
    """Features, answers, masks, losses and gradients of the referring model."""
    run, computed = _Run(golden), Computed()
    with torch.no_grad():
        run.features(computed)
        run.teacher_forced(computed)
        for name in dict.fromkeys(name.split("/")[1] for name in golden.outputs if name.startswith("decode/")):
            run.decoding(computed, name)
    run.training(computed)
    return computed


class _Run:
    """The model of one golden file and its inputs, every prompt taken as valid: R = B * N rows, image-major."""

    def __init__(self, golden: Golden):
        self.golden = golden
        self.hparams: dict[str, Any] = golden.hparams["model"]
        self.model: Any = official_model(golden)

        inputs = golden.inputs
        self.images, self.prompts = inputs["prompt_boxes"].shape[:2]
        self.tokens = inputs["text_tokens"].flatten(0, 1).long()
        context = inputs["context_tokens"].flatten(0, 1).long()
        self.pixel_mask = inputs["padding_mask"].bool()
        self.where = {
            "pixel_mask": self.pixel_mask,
            "prompt_boxes": inputs["prompt_boxes"],
            "prompt_mask": torch.ones(self.images, self.prompts, dtype=torch.bool),
        }
        self.pixels = {"pixel_values": inputs["image"].permute(0, 3, 1, 2)}
        self.text = {"input_ids": context, "attention_mask": (context > 0).long()}
        sizes_wh = valid_size_hw(self.pixel_mask).flip(-1).float()
        self.scale = sizes_wh.repeat_interleave(self.prompts, dim=0)[:, None, None, :]  # R,1,1,2

    def features(self, computed: Computed) -> None:
        maps = self.model.get_image_features(**self.pixels, pixel_mask=self.pixel_mask)
        named = {"git_visual_features": "eva02", "sam_visual_features": "sam", "fused_features": "fused"}
        computed.add({name: maps[ours] for name, ours in named.items()})
        visual = self.model.get_visual_tokens(maps, **self.where)
        computed.add({"visual_features": self._by_image(visual)})
        # An all-zero box is no box: the reference falls back to its (zero) corner points.
        is_box = self.where["prompt_boxes"].amax(dim=-1) > 0
        computed.add({"box_valid_mask": is_box[..., None, None]})
        self.encoded = self.model.encode(image_features=maps, **self.where, **self.text)
        self.seen = maps, visual

    def teacher_forced(self, computed: Computed) -> None:
        output = self._second_pass(self.tokens)
        points = output.coordinates * self.scale
        values = {
            "logits": output.logits,
            "text_feats": output.decoder_states,
            "point_coords": points,
            "point_logits": self.model.point_head(output.decoder_states).logits,
        }
        computed.add({name: self._by_image(value) for name, value in values.items()}, "teacher_forced/")
        keep = self._selected(self.hparams["point_output_ignore"])
        boxes = points_to_boxes(points, keep)
        masks, iou_predictions = self._masks(*self.seen, output.decoder_states, boxes).best()
        values = {
            "point_coords": points,
            "point_valid_mask": keep,
            "detection_boxes": boxes,
            "detection_masks": masks,
            "iou_predictions": iou_predictions,
        }
        computed.add({name: self._by_image(value) for name, value in values.items()}, "refer/")

    def decoding(self, computed: Computed, name: str) -> None:
        """Greedy or `beamK`: captions and scores, then places and states of the reference's second pass."""
        below = {
            output.removeprefix(f"decode/{name}/"): value
            for output, value in self.golden.outputs.items()
            if output.startswith(f"decode/{name}/")
        }
        slots = below["beam_text_tokens"].shape[2]
        length = below["text_tokens"].shape[-1]
        states, mask = self.encoded
        eos = self.hparams["end_token_id"]
        # The released recipes: 4 beams of 2 candidates for captions, 3 beams of 1 for referring.
        options = decoding_options(self.golden, name, per_node_beam=1 if name == "beam3" else 2)
        output = self.model.generate(
            encoder_outputs=BaseModelOutput(last_hidden_state=states), attention_mask=mask.long(), **options
        )
        sequences, coordinates = self._ascending(output.sequences, slots), self._ascending(output.coordinates, slots)
        padded = filled(sequences, length, eos)
        scores = greedy_score(output, eos)[:, None] if slots == 1 else self._ascending(output.sequences_scores, slots)
        values = {"beam_text_tokens": padded, "beam_log_probs": scores, "text_tokens": padded[:, -1]}
        values["log_probs"] = scores[:, -1]

        second_tokens = without_repeated_end(padded[:, -1], eos)
        second = self._second_pass(second_tokens)
        # Locations come from the one pass of generate() where it gives any: at words, not at BOS, EOS and padding. A
        # token that padding follows sees everything alike in the second pass, which one pass cannot know beforehand.
        places = torch.nn.functional.pad(
            coordinates[:, -1], (0, 0, 0, 0, 0, length - coordinates.shape[2]), value=torch.nan
        )
        places = torch.where(places.isnan() | ~takes_part(second_tokens)[..., None, None], second.coordinates, places)
        places = places * self.scale
        values |= {"second_pass_tokens": second_tokens, "text_feats": second.decoder_states, "point_coords": places}
        computed.add({key: self._by_image(value) for key, value in values.items()}, f"decode/{name}/")
        was_filled = below["beam_log_probs"] > _NEVER
        computed.valid[f"decode/{name}/beam_log_probs"] = was_filled
        computed.valid[f"decode/{name}/beam_text_tokens"] = was_filled[..., None]

    def training(self, computed: Computed) -> None:
        """Losses and gradients: of text and points through the model's own `forward(labels=…)`, of masks after it.

        One image of the file is a trace: its masks are those of boxes around all words, which `forward` never makes.
        Boxes reach the mask decoder without gradient, but it also reads the text states and everything below them.
        """
        inputs = self.golden.inputs
        is_object = inputs["gt_classes"].flatten() > 0
        is_trace = (inputs["gt_points"].flatten(1) > 0).any(1).repeat_interleave(self.prompts)
        keep = torch.where(
            is_trace[:, None],
            self._selected(self.hparams["trace_point_output_ignore"]),
            self._selected(self.hparams["point_output_ignore"]),
        )
        corners = inputs["gt_boxes"].flatten(0, 1).unflatten(-1, (2, 2))[:, None]
        target = torch.where(is_trace[:, None, None, None], inputs["gt_points"].flatten(0, 1), corners) / self.scale
        target = target.masked_fill(~(keep & is_object[:, None])[..., None, None], torch.nan)

        self.model.requires_grad_(True).train()
        maps = self.model.get_image_features(**self.pixels, pixel_mask=self.pixel_mask)
        output = self.model(
            image_features=maps,
            **self.where,
            **self.text,
            labels=self.tokens[:, 1:].masked_fill(self.tokens[:, 1:] == 0, IGNORE_INDEX),
            point_labels=target[:, 1:],
            text_loss_mask=is_object.float(),
        )
        assert output.loss_parts is not None and output.loss is not None and output.coordinates is not None
        config = self.model.config
        for name, weight in (("text", config.text_loss_weight), ("point", config.point_loss_weight)):
            loss = output.loss_parts[name]
            computed.add({f"train/{name}_loss": loss, f"train/{name}_loss_scaled": weight * loss})
        boxes = points_to_boxes((output.coordinates * self.scale).detach(), keep)
        computed.add({"train/detection_boxes": self._by_image(boxes), "train/point_valid_mask": self._by_image(keep)})
        visual = self.model.get_visual_tokens(maps, **self.where)
        masks = self._masks(maps, visual, output.decoder_states, boxes)
        assert masks.logits is not None and masks.iou_predictions is not None
        parts = mask_loss(
            masks.logits,
            masks.iou_predictions,
            inputs["gt_masks"].flatten(0, 1)[..., 0],
            pixel_mask=self.pixel_mask.repeat_interleave(self.prompts, dim=0),
            row_mask=is_object,
        )
        computed.add({LOSS_NAMES[part]: loss for part, loss in parts.items()}, "train/")
        loss, weight = sum_of(parts), self.hparams.get("mask_loss_weight", 1.0)
        total = output.loss + weight * loss
        values = {"mask_loss": loss, "mask_loss_scaled": weight * loss, "total_loss": total}
        computed.add(values | {"detection_masks": self._by_image(masks.logits)}, "train/")
        # A row without any text is no prompt of ours; here it stands for the reference's padding and is not compared.
        has_text = self._by_image((self.tokens[:, 1:] > 0).any(1, keepdim=True))
        computed.valid["train/detection_boxes"] = has_text
        computed.valid["train/detection_masks"] = has_text[..., None, None]

        total.backward()
        gradients = {name: p.grad for name, p in self.model.named_parameters() if p.grad is not None}
        computed.add(restore_pixelllm(self.golden.params, gradients), "train/grad/")

    def _masks(self, maps: VisionFeatures, visual: Tensor, states: Tensor, boxes: Tensor) -> MaskHeadOutput:
        """Boxes (R,4) canvas pixels, and what the language model saw and said of them -> masks."""
        return self.model.predict_masks(maps, visual, states, boxes, self.where["prompt_mask"].nonzero()[:, 0])

    def _second_pass(self, tokens: Tensor) -> Any:
        """tokens (R,T), first BOS -> `PixelLLMOutput` of all of them, with the reference's masks."""
        states, mask = self.encoded
        return self.model(
            encoder_outputs=BaseModelOutput(last_hidden_state=states),
            attention_mask=mask,
            decoder_input_ids=tokens,
            decoder_attention_mask=takes_part(tokens),
        )

    def _selected(self, ignore: str) -> Tensor:
        return select_tokens(self.tokens, ignore, self.hparams["begin_token_id"], self.hparams["end_token_id"], 0)

    def _by_image(self, rows: Tensor) -> Tensor:
        return rows.unflatten(0, (self.images, self.prompts))

    def _ascending(self, rows: Tensor, slots: int) -> Tensor:
        """(R*k,…), best first, -> (R,k,…), best last as in the reference."""
        return rows.unflatten(0, (-1, slots)).flip(1)


__all__ = ["e2e_refer"]
