"""What `generate()` does above plain decoding: long prompt lists, given answers, boxes, masks and detections."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessorList
from transformers.generation.streamers import BaseStreamer

from .box_ops import boxes_of_words, last_words
from .decoding_modes import PER_STEP_OUTPUTS, check_beginning, check_counts, end_ids, refuse_unkept_modes
from .decoding_rules import ANSWER_OPTIONS
from .detections import Detections, agreement, detect_objects, joined, rescored
from .given_answers import read_given
from .grounded_generation import GenerateCall, GroundedOutput, ReadTargets, eos_ids, start_id
from .language_model import full_encoder_mask
from .model_output import GroundedGenerateOutput, LayerOutputs
from .prompt_rows import PromptRows, check_ids
from .target_masks import AnswerTargets, decoded_targets
from .vision_towers import VisionFeatures

if TYPE_CHECKING:
    from .modeling_pixelllm import PixelLLMForGroundedGeneration


# What `generate` takes besides transformers' options, as keywords or as entries of the generation config: defaults.
OWN_OPTIONS: dict[str, Any] = {
    "output_boxes": None,
    "output_masks": False,
    "detect_objects": False,
    "prompt_chunk_size": 64,
    **ANSWER_OPTIONS,
    "reference_beam_search": False,
    "reference_beam_alpha": 0.6,
    "reference_per_node_beam": 2,
}
_PROMPT_NAMES = ("prompt_boxes", "prompt_points", "prompt_point_labels", "prompt_mask")
_INPUT_NAMES = (
    *_PROMPT_NAMES,
    "pixel_values",
    "pixel_mask",
    "input_ids",
    "attention_mask",
    "query_ids",
    "decoder_input_ids",
    "image_features",
    "encoder_outputs",
)
# What batches of the processor and of the collator have besides: it is of use before and after, not here.
_PASSING_NAMES = (
    "original_sizes",
    "prompt_characters",
    "query_characters",
    "labels",
    "label_segments",
    "point_labels",
    "visual_labels",
    "text_loss_mask",
    "mask_labels",
    "mask_loss_mask",
    "target_mask_labels",
    "object_boxes",
    "object_labels",
)


class TaskGeneration:
    """One call of `generate()`: the parts above plain decoding, put together as the call asks."""

    def __init__(self, model: PixelLLMForGroundedGeneration, call: GenerateCall):
        self.model, self.call = model, call
        self.masks = bool(call.own["output_masks"])
        asked = call.own["output_boxes"]
        self.boxes = self.masks or (call.inputs["query_ids"] is not None if asked is None else bool(asked))

    @classmethod
    def of_call(
        cls,
        model: PixelLLMForGroundedGeneration,
        generation_config: GenerationConfig | None,
        logits_processor: LogitsProcessorList | None,
        streamer: BaseStreamer | None,
        keywords: dict[str, Any],
    ) -> TaskGeneration:
        """keywords: all others of `generate`, whose inputs and own options are taken out of transformers' options."""
        options = dict(keywords)
        if "synced_gpus" in options and generation_config is None:  # Seq2SeqTrainer, which asks for a tensor's shape
            options.setdefault("return_dict_in_generate", False)
        if streamer is not None and generation_config is None:  # words that are shown as they come are no beam's
            options.setdefault("num_beams", 1)
        resolved, _ = model._prepare_generation_config(generation_config, **options)
        refuse_unkept_modes(resolved, options)
        own = {name: options.pop(name, getattr(resolved, name, default)) for name, default in OWN_OPTIONS.items()}
        check_counts(resolved, own)
        inputs = {name: options.pop(name, None) for name in _INPUT_NAMES}
        for name in _PASSING_NAMES:
            options.pop(name, None)
        return cls(model, GenerateCall(resolved, generation_config, logits_processor, streamer, own, inputs, options))

    def output(self) -> GroundedOutput | Tensor:
        """What the call returns."""
        call, model = self.call, self.model
        rows, detections = self._prompt_rows(call.inputs, detect=bool(call.own["detect_objects"]))
        self._check_beginning(rows)
        if self.masks and rows.encoder_states is not None:
            raise ValueError("output_masks needs the image: pass pixel_values or image_features, not encoder_outputs.")
        if self.masks and model.mask_head is None:
            raise ValueError(lacks_head("mask", "makes no masks"))
        if detections is not None and model.proposal_head.config.multiply_caption_score:
            call.rescores = True
            if (call.config.num_beams or 1) > 1:
                call.options |= {"num_return_sequences": call.config.num_beams, "output_scores": True}

        output = self._empty_output(rows) if detections is not None and not len(rows) else self._generate_chunked(rows)
        if detections is not None:
            if call.rescores and len(rows):
                output, detections = rescored(output, detections, model.proposal_head.config.max_detections)
            output["prompt_boxes"], output["prompt_mask"] = detections.boxes, detections.mask
            output["detection_scores"] = detections.scores
        elif self.boxes and model.proposal_head is not None and rows.image_features is not None:
            output["box_scores"] = self._box_scores(rows, output.boxes)
        return output if call.config.return_dict_in_generate else output.sequences

    def _prompt_rows(self, given: dict[str, Any], *, detect: bool) -> tuple[PromptRows, Detections | None]:
        """The prompts of the call: given ones, or the objects that are found."""
        text = {name: given[name] for name in ("input_ids", "attention_mask", "query_ids", "decoder_input_ids")}
        for name in ("input_ids", "query_ids", "decoder_input_ids"):
            check_ids(text[name], name, self.model.config.get_text_config().vocab_size)
        if detect and text["decoder_input_ids"] is not None:
            raise ValueError("with detect_objects the number of answers is not known: leave out decoder_input_ids.")
        if given["encoder_outputs"] is not None:
            if detect:
                raise ValueError("detect_objects needs the image: pass pixel_values, not encoder_outputs.")
            states = given["encoder_outputs"][0]
            text |= {"input_ids": None, "attention_mask": full_encoder_mask(text["attention_mask"], states)}
            return PromptRows(encoder_states=states, **text), None
        places = {name.removeprefix("prompt_"): given[name] for name in _PROMPT_NAMES}
        if detect and self.model.proposal_head is None:
            raise ValueError(lacks_head("proposal", "detects no objects"))
        if detect and (named := [f"prompt_{name}" for name, value in places.items() if value is not None]):
            raise ValueError(
                f"with detect_objects the model finds the places itself, but {', '.join(named)} came too. "
                "Leave out either."
            )
        features = self.model.encode_image(given["image_features"], given["pixel_values"], given["pixel_mask"])
        detections = None
        if detect:
            detections = self._detected(features)
            places |= {"boxes": detections.boxes, "mask": detections.mask}
            for name in ("input_ids", "attention_mask"):
                text[name] = None if text[name] is None else detections.of_each_prompt(text[name], name)
        return PromptRows(image_features=features, pixel_mask=given["pixel_mask"], **places, **text), detections

    def _check_beginning(self, rows: PromptRows) -> None:
        """Refuse what cannot be gone on from, and leave to the rows what belongs to them."""
        mask, cache = self.call.options.pop("decoder_attention_mask", None), self.call.options.get("cache")
        beginning, config = rows.decoder_input_ids, self.call.config
        if beginning is None and mask is None and cache is None:
            return
        if rows.query_ids is not None:
            raise ValueError("query_ids are whole answers: leave out decoder_input_ids, their mask and the cache.")
        if beginning is not None and self.call.own["reference_beam_search"]:
            raise ValueError("reference_beam_search begins with BOS alone: leave out either it or decoder_input_ids.")
        if cache is not None and len(rows) > self.call.own["prompt_chunk_size"]:
            raise ValueError(
                f"a cache belongs to one chunk of prompts, but there are {len(rows)} prompts and prompt_chunk_size is "
                f"{self.call.own['prompt_chunk_size']}. Raise prompt_chunk_size or leave out the cache."
            )
        copies = max(config.num_beams or 1, config.num_return_sequences or 1)
        check_beginning(beginning, mask, start_id(config, self.model.config), cache, len(rows) * copies)

    def _detected(self, features: VisionFeatures) -> Detections:
        return detect_objects(self.model.proposal_head, features, self.model.config.image_size)

    def _box_scores(self, rows: PromptRows, boxes: Tensor) -> Tensor:
        """boxes (R,4) 0..1 of the unpadded image -> how well they agree with what the detector finds, (R,)."""
        copies = len(boxes) // len(rows)
        images = rows.prompt_mask.nonzero()[:, 0].repeat_interleave(copies)
        sizes = self.model.row_sizes_wh(rows.pixel_mask, rows.prompt_mask, len(rows)).repeat_interleave(copies, dim=0)
        return agreement(boxes.clamp(0, 1) * sizes.repeat(1, 2), images, self._detected(rows.image_features))

    def _empty_output(self, rows: PromptRows) -> GroundedOutput:
        """The answers to no prompts."""
        if self.call.streamer is not None:
            self.call.streamer.end()
        sequences = torch.full((0, 1), start_id(self.call.config, self.model.config), device=rows.prompt_mask.device)
        states = sequences.new_zeros(0, 1, self.model.language_model.width, dtype=torch.float32)
        output = GroundedGenerateOutput(
            sequences=sequences,
            **self.model.point_head.locate(states, sequences == sequences),
            token_log_probs=sequences.new_zeros(0, 1, dtype=torch.float32),
        )
        if self.boxes:
            output["boxes"] = sequences.new_zeros(0, 4, dtype=torch.float32)
        if self.masks:
            assert rows.image_features is not None
            mask_map = rows.image_features[self.model.config.vision_config.mask_map]
            height, width = (4 * cells for cells in mask_map.shape[1:3])
            output["masks"] = sequences.new_zeros(0, height, width, dtype=torch.float32)
            output["mask_scores"] = sequences.new_zeros(0, dtype=torch.float32)
        return output

    def _generate_chunked(self, rows: PromptRows) -> GroundedOutput:
        number, size = len(rows), int(self.call.own["prompt_chunk_size"])
        if number <= size:
            return self._generate_chunk(rows)
        per_step = [name for name in PER_STEP_OUTPUTS if getattr(self.call.config, name, None)]
        if self.call.streamer is not None or per_step:
            what = "a streamer" if self.call.streamer is not None else ", ".join(per_step)
            raise ValueError(
                f"{what} can follow one chunk of prompts, but there are {number} prompts and prompt_chunk_size is "
                f"{size}. Raise prompt_chunk_size or leave it out."
            )
        answers = [self._generate_chunk(chunk) for chunk in rows.chunks(size)]
        return joined(answers, self.model.config.text_config.pad_token_id)

    def _generate_chunk(self, rows: PromptRows) -> GroundedOutput:
        """Everything that is wanted of one chunk."""
        seen, text_states = None, None
        layers = LayerOutputs.asked(self.call.config)
        if rows.encoder_states is not None:
            states, mask = rows.encoder_states, rows.attention_mask
        else:
            seen = self.model.get_prompt_features(
                rows.image_features, rows.pixel_mask, rows.boxes, rows.points, rows.point_labels, rows.mask
            )
            length = self.model.config.mask_head_config.prompt_length if self.masks else 0
            states, mask = self.model.encode_prompts(
                seen, rows.input_ids, rows.attention_mask, length=length, layers=layers
            )
        read_targets = None if seen is None or self.model.codebook_head is None else self._targets_of(rows)
        if rows.query_ids is not None:
            output, text_states = read_given(
                self.model, rows.query_ids, states, mask, self.call, for_masks=self.masks, read_targets=read_targets
            )
        else:
            output = self.model.write(states, mask, self.call, layers, rows.decoder_input_ids, read_targets)
        if self.boxes:
            ends = end_ids(self.call.config) if rows.query_ids is None else eos_ids(self.call.config, self.model.config)
            words = last_words(output.sequences, ends)
            output["boxes"] = boxes_of_words(output.coordinates, words)
        if self.masks:
            copies = len(output.sequences) // len(states)
            assert seen is not None  # as checked before
            visual, states, mask = (value.repeat_interleave(copies, dim=0) for value in (seen.tokens, states, mask))
            if text_states is None:
                text_states = self._masked_pass(output.sequences, output.coordinates, states, mask)
            output["masks"], output["mask_scores"] = self._masks(rows, visual, text_states, output.boxes)
        return output

    def _targets_of(self, rows: PromptRows) -> ReadTargets:
        """What reads the targets in the answers to these rows."""
        features, head = rows.image_features, self.model.codebook_head
        assert features is not None

        def read(sequences: Tensor, states: Tensor) -> AnswerTargets:
            groups, group_states = head.find(sequences, states)
            images = rows.prompt_mask.nonzero()[:, 0].repeat_interleave(len(sequences) // len(rows))
            return decoded_targets(
                groups,
                group_states.to(self.model.dtype),
                images[groups.row],
                partial(self.model.predict_target_masks, features),
                rows.pixel_mask,
            )

        return read

    def _masked_pass(self, sequences: Tensor, coordinates: Tensor, states: Tensor, mask: Tensor) -> Tensor:
        """The reference's second pass, whose states of EOS and padding the mask head reads: (R,T,C)."""
        takes_part = coordinates.isfinite().flatten(2).all(-1)
        takes_part[:, 0] = True  # BOS
        tokens, takes_part = self.model.padded_for_masks(sequences, takes_part)
        return self.model.language_model.decode(tokens, states, mask, decoder_mask=takes_part)[0]

    def _masks(
        self, rows: PromptRows, visual_tokens: Tensor, text_states: Tensor, boxes: Tensor
    ) -> tuple[Tensor, Tensor]:
        """boxes (R,4) 0..1 of the unpadded image -> logits (R,4h,4w) and predicted IoU (R,); NaN without a box."""
        images, copies = rows.prompt_mask.nonzero()[:, 0], len(boxes) // len(rows)
        images = images.repeat_interleave(copies)
        sizes = self.model.row_sizes_wh(rows.pixel_mask, rows.prompt_mask, len(rows)).repeat_interleave(copies, dim=0)
        known = boxes.isfinite().all(-1)
        canvas_boxes = boxes.nan_to_num(0.0) * sizes.repeat(1, 2)
        masks, iou_predictions = self.model.predict_masks(
            rows.image_features, visual_tokens, text_states, canvas_boxes, images
        ).best()
        masks = masks.float().masked_fill(~known[:, None, None], torch.nan)
        return masks, iou_predictions.float().masked_fill(~known, torch.nan)


def lacks_head(head: str, consequence: str, entry: str | None = None) -> str:
    """What to say to someone who asks a model for what its config (its entry of this name) gives it no head for."""
    entry = entry or f"{head}_head_config"
    return (
        f"this model has no {head} head, so it {consequence} ({entry} is None). Load a checkpoint that has one, or "
        f"give {entry} a value in this one's config and train the new head."
    )


__all__ = ["TaskGeneration", "lacks_head"]
