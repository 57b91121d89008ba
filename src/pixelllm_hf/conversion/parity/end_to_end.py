"""Parity of the whole model: features, teacher forcing, decoding, masks, losses and gradients."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache
from transformers.modeling_outputs import BaseModelOutput

from ...modeling.box_ops import points_to_boxes, select_tokens
from ...modeling.language_t5 import MASKED_SCORE
from ...modeling.mask_head import MaskHeadOutput
from ...modeling.mask_losses import mask_loss
from ...modeling.modeling_pixelllm import IGNORED_LABEL, PixelLLMForGroundedGeneration
from ...modeling.vision_towers import VisionFeatures, valid_size_hw
from ..scenic import OPTIONAL_GROUPS, convert_pixelllm, restore_pixelllm
from ..scenic_hparams import ScenicLora, mask_head_config, pixelllm_config
from .golden import Computed, Golden
from .heads import takes_part
from .masks import LOSS_NAMES, official_mask_head, sum_of

_NEVER = -1e6  # scores below are of beam slots that the reference never filled


def e2e_refer(golden: Golden) -> Computed:
    """The model with its mask head beside it."""
    run, computed = _Run(golden), Computed()
    with torch.no_grad():
        run.features(computed)
        run.teacher_forced(computed)
        for name in dict.fromkeys(name.split("/")[1] for name in golden.outputs if name.startswith("decode/")):
            run.decoding(computed, name)
    run.training(computed)
    return computed


class _ReferenceMasking(PixelLLMForGroundedGeneration):
    """Decodes with the one mask of the reference that ours leaves out.

    The reference lets nobody look at a token whose next one is padding (spec section 5.1). In a caption that is its end
    alone, which nobody looks at anyway; but random weights also write the padding id in the middle of a caption.
    """

    def prepare_inputs_for_generation(self, input_ids: Tensor, *args: Any, **kwargs: Any) -> dict[str, Any]:
        inputs = super().prepare_inputs_for_generation(input_ids, *args, **kwargs)
        mask = _hidden_before_padding(input_ids)
        return inputs | {"decoder_attention_mask": mask[:, :, -inputs["decoder_input_ids"].shape[1] :]}

    def _states_after_last_token(
        self, sequences: Tensor, rows: Tensor, encoder_states: Tensor, encoder_mask: Tensor, cache: Cache | None
    ) -> Tensor:
        copies = len(sequences) // len(encoder_states)
        states, _ = self.language_model.decode(
            sequences[rows],
            encoder_states.repeat_interleave(copies, dim=0)[rows],
            encoder_mask.repeat_interleave(copies, dim=0)[rows],
            decoder_mask=_hidden_before_padding(sequences[rows]),
        )
        return states[:, -1]


def _hidden_before_padding(tokens: Tensor) -> Tensor:
    """tokens (R,T) so far -> additive mask (R,1,T,T): causal, and blind to tokens that padding follows."""
    seen = torch.cat([tokens[:, 1:] > 0, torch.ones_like(tokens[:, :1], dtype=torch.bool)], dim=1)
    length = tokens.shape[1]
    keep = torch.ones(length, length, dtype=torch.bool).tril() & seen[:, None, None, :]
    return torch.zeros(keep.shape).masked_fill(~keep, MASKED_SCORE)


class _Run:
    """The model of one golden file and its inputs, every prompt taken as valid: R = B * N rows, image-major."""

    def __init__(self, golden: Golden):
        from peft import inject_adapter_in_model

        self.golden = golden
        self.hparams: dict[str, Any] = golden.hparams["model"]
        model: Any = _ReferenceMasking(pixelllm_config(golden.hparams))
        if lora := ScenicLora.from_hparams(self.hparams["text_decoder_args"]):
            model = inject_adapter_in_model(lora.peft_config(), model)
        model.load_state_dict(convert_pixelllm(golden.params, skip_groups=OPTIONAL_GROUPS))
        self.model = model.eval()
        two_way = {name: golden.hparams["two_way"][name] for name in ("num_heads", "mlp_dim")}
        masks = mask_head_config(self.hparams["mask_adapter_args"], self.hparams["mask_decoder_args"], two_way)
        self.mask_head = official_mask_head(masks, golden.params, model.config.text_config.d_model)

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
        computed.add({"git_visual_features": maps.eva02, "sam_visual_features": maps.sam, "fused_features": maps.fused})
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
        masks, promised = self._masks(*self.seen, output.decoder_states, boxes).best()
        values = {
            "point_coords": points,
            "point_valid_mask": keep,
            "detection_boxes": boxes,
            "detection_masks": masks,
            "iou_predictions": promised,
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
        options: dict[str, Any] = {"no_immediate_repetition": True}
        if match := re.fullmatch(r"beam(\d+)", name):
            beams = int(match[1])
            # The released recipes: 4 beams of 2 candidates for captions, 3 beams of 1 for referring.
            per_node = 1 if beams == 3 else 2
            options = {
                "num_beams": beams,
                "num_return_sequences": beams,
                "reference_beam_search": True,
                "reference_per_node_beam": per_node,
            }
        output = self.model.generate(
            encoder_outputs=BaseModelOutput(last_hidden_state=states),
            attention_mask=mask.long(),
            # The reference never writes the last place of its buffer, which it fills with EOS.
            max_length=length - 1,
            do_sample=False,
            decoder_start_token_id=self.hparams["begin_token_id"],
            eos_token_id=eos,
            pad_token_id=0,
            output_scores=True,
            **options,
        )
        sequences, coordinates = self._ascending(output.sequences, slots), self._ascending(output.coordinates, slots)
        padded = _filled(sequences, length, eos)
        scores = _greedy_score(output, eos)[:, None] if slots == 1 else self._ascending(output.sequences_scores, slots)
        values = {"beam_text_tokens": padded, "beam_log_probs": scores, "text_tokens": padded[:, -1]}
        values["log_probs"] = scores[:, -1]

        second_tokens = _without_repeated_end(padded[:, -1], eos)
        second = self._second_pass(second_tokens)
        # Places come from the one pass of generate() where it gives any: at words, not at BOS, EOS and padding. A token
        # that padding follows sees everything alike in the second pass, which one pass cannot know beforehand.
        places = torch.nn.functional.pad(
            coordinates[:, -1], (0, 0, 0, 0, 0, length - coordinates.shape[2]), value=torch.nan
        )
        places = torch.where(places.isnan() | ~takes_part(second_tokens)[..., None, None], second.coordinates, places)
        places = places * self.scale
        values |= {"second_pass_tokens": second_tokens, "text_feats": second.decoder_states, "point_coords": places}
        computed.add({key: self._by_image(value) for key, value in values.items()}, f"decode/{name}/")
        filled = below["beam_log_probs"] > _NEVER
        computed.valid[f"decode/{name}/beam_log_probs"] = filled
        computed.valid[f"decode/{name}/beam_text_tokens"] = filled[..., None]

    def training(self, computed: Computed) -> None:
        """Losses and gradients: of text and points through the model's own `forward(labels=…)`, of masks after it.

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

        self.model.requires_grad_(True)
        # Fused kernels keep the log of a row's summed scores for the way back, which next to MASKED_SCORE forgets how
        # many scores there were: the gradient of a query that sees nothing is off by that number. Masks read such rows.
        self.model.language_model.body.set_attn_implementation("eager")
        maps = self.model.get_image_features(**self.pixels, pixel_mask=self.pixel_mask)
        output = self.model(
            image_features=maps,
            **self.where,
            **self.text,
            labels=self.tokens[:, 1:].masked_fill(self.tokens[:, 1:] == 0, IGNORED_LABEL),
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
        parameters = {f"mask_head.{name}": p for name, p in self.mask_head.named_parameters()}
        parameters |= dict(self.model.named_parameters())
        gradients = {name: p.grad for name, p in parameters.items() if p.grad is not None}
        computed.add(restore_pixelllm(self.golden.params, gradients), "train/grad/")

    def _masks(self, maps: VisionFeatures, visual: Tensor, states: Tensor, boxes: Tensor) -> MaskHeadOutput:
        """Boxes (R,4) canvas pixels, and what the language model saw and said of them -> masks."""
        assert maps.sam is not None
        encoder, side = self.model.prompt_encoder, self.model.config.image_size
        return self.mask_head(
            maps.sam,
            encoder.dense_positions(maps.sam.shape[1], maps.sam.shape[2]),
            encoder.no_mask,
            encoder.embed_boxes(boxes, image_size_hw=(side, side)),
            visual,
            states,
            self.where["prompt_mask"].nonzero()[:, 0],
        )

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


def _filled(sequences: Tensor, length: int, eos: int) -> Tensor:
    """The reference's buffer of `length` tokens: EOS again and again after the end."""
    ended = (sequences == eos).cumsum(-1) > 0
    sequences = sequences.masked_fill(ended, eos)
    return torch.nn.functional.pad(sequences, (0, length - sequences.shape[-1]), value=eos)


def _without_repeated_end(tokens: Tensor, eos: int) -> Tensor:
    """Zeros after the first EOS: what the reference's second pass reads (spec section 9)."""
    return tokens.masked_fill((tokens == eos).cumsum(-1) > 1, 0)


def _greedy_score(output: Any, eos: int) -> Tensor:
    """The reference's score of a greedy caption: mean log-probability over its tokens, EOS left out of the count."""
    sequences = output.sequences
    log_probs = torch.stack([score.float().log_softmax(-1) for score in output.scores], dim=1)  # R,T-1,V
    picked = log_probs.gather(-1, sequences[:, 1:, None]).squeeze(-1)
    ended_before = ((sequences[:, :-1] == eos).cumsum(-1)) > 0
    words = ((sequences == eos).cumsum(-1) == 0).sum(-1) - 1
    return picked.masked_fill(ended_before, 0.0).sum(-1) / words.clamp(min=1)


__all__ = ["e2e_refer"]
