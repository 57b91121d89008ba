"""`generate()`: transformers' own with places, and with boxes, masks and detections where they are asked for."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessorList
from transformers.generation.streamers import BaseStreamer

from .box_ops import boxes_of_words
from .box_ops import is_one_of
from .box_ops import last_words
from .cache_name import CACHE_NAME
from .decoding_modes import check_beginning
from .decoding_modes import refuse_unkept_modes
from .detections import Detections
from .detections import agreement
from .detections import joined
from .detections import rescored
from .encoder_mask import full_encoder_mask
from .generation import GroundedGenerateOutput
from .generation import log_probs_of
from .grounded_decoding import GenerateCall
from .grounded_decoding import GroundedDecodingMixin
from .grounded_decoding import GroundedOutput
from .grounded_decoding import caption_scores
from .grounded_decoding import end_ids
from .grounded_decoding import eos_ids
from .grounded_decoding import start_id
from .model_output import LayerOutputs
from .prompt_rows import PromptRows


_OWN_OPTIONS: dict[str, Any] = {
    "output_boxes": None,
    "output_masks": False,
    "detect_objects": False,
    "prompts_at_once": 64,
    "no_immediate_repetition": False,
    "max_repeated_tokens": 0,
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
    "point_labels",
    "text_loss_mask",
    "mask_labels",
    "mask_loss_mask",
    "object_boxes",
    "object_labels",
)
_PER_STEP_OUTPUTS = ("output_scores", "output_logits", "output_attentions", "output_hidden_states")


class GroundedGenerationMixin(GroundedDecodingMixin):
    """`generate()` of a model that has `get_visual_tokens`, `encode_prompts`, a language model and heads."""

    mask_head: Any
    proposal_head: Any
    features_or_see: Any
    get_visual_tokens: Any
    encode_prompts: Any
    padded_for_masks: Any
    predict_masks: Any
    row_sizes_wh: Any

    @torch.no_grad()
    def generate(
        self,
        inputs: Tensor | None = None,
        generation_config: GenerationConfig | None = None,
        logits_processor: LogitsProcessorList | None = None,
        streamer: BaseStreamer | None = None,
        **kwargs: Any,
    ) -> GroundedOutput | Tensor:
        """transformers' `generate` with a place for every token, in the same pass.

        Takes what the processor returns and every option of `GenerationConfig`; greedy, sampling and beam search.
        Options of our own, as keywords or entries of the generation config; flags may be tensors:
            decoder_input_ids: (R,T) what each answer begins with, with or without BOS, and cache: what has consumed
                all but the last of these tokens, from the output of an earlier call. They are words of the answer like
                those that follow, with locations of their own.
            query_ids: (R,T) the answer itself, an expression and EOS, right-padded: nothing is searched, the places of
                the given words are read (the official rule of referring). Options of decoding and of what to return
                per step mean nothing then.
            output_boxes: the box of what each answer is about, from the points of its last word; by default where
                query_ids or output_masks are given.
            output_masks: its mask, too.
            detect_objects: no prompt is given; the model finds the objects and captions each. input_ids (B,L).
            prompts_at_once: more prompts are encoded and decoded in portions of this many (64), for bounded memory.
            no_immediate_repetition: the reference's greedy rule.
            max_repeated_tokens: an answer ends once so many tokens in a row repeat those directly before them; 0 is
                never.
            reference_beam_search: the reference's beam search instead of transformers' (see its module), with
                reference_beam_alpha (0.6) and reference_per_node_beam (candidates a beam: 2, or 1 when referring).
        A streamer that has `put_location(points (rows,P,2))` is told each token's place as soon as it is known.

        Returns `GroundedGenerateOutput` / `GroundedBeamGenerateOutput`, or with return_dict_in_generate=False the
        sequences alone; that is the default where synced_gpus is given, as `Seq2SeqTrainer` does. Rows: R prompts
        times num_return_sequences.
        """
        if inputs is not None:
            kwargs["pixel_values"] = inputs
        if "synced_gpus" in kwargs and generation_config is None:  # Seq2SeqTrainer, which asks for a tensor's shape
            kwargs.setdefault("return_dict_in_generate", False)
        if "cache" in kwargs:
            kwargs[CACHE_NAME] = kwargs.pop("cache")
        resolved, _ = self._prepare_generation_config(generation_config, **kwargs)
        refuse_unkept_modes(resolved, kwargs)
        own = {name: kwargs.pop(name, getattr(resolved, name, default)) for name, default in _OWN_OPTIONS.items()}
        given = {name: kwargs.pop(name, None) for name in _INPUT_NAMES}
        for name in _PASSING_NAMES:
            kwargs.pop(name, None)
        call = GenerateCall(resolved, generation_config, logits_processor, streamer, own, kwargs)
        call.masks = bool(own["output_masks"])
        boxes = given["query_ids"] is not None if own["output_boxes"] is None else bool(own["output_boxes"])
        call.boxes = call.masks or boxes
        rows, detections = self._prompt_rows(given, detect=bool(own["detect_objects"]))
        self._check_beginning(rows, call)
        if call.masks and rows.encoder_states is not None:
            raise ValueError("output_masks needs the image: pass pixel_values or image_features, not encoder_outputs.")
        if call.masks and self.mask_head is None:
            raise ValueError(lacks_head("mask", "makes no masks"))
        if detections is not None and self.proposal_head.config.multiply_caption_score:
            call.rescores = True
            if (resolved.num_beams or 1) > 1:
                kwargs |= {"num_return_sequences": resolved.num_beams, "output_scores": True}

        if detections is not None and not len(rows):
            output = self._nothing(rows, call)
        else:
            output = self._in_portions(rows, call)
        if detections is not None:
            if call.rescores and len(rows):
                output, detections = rescored(output, detections, self.proposal_head.config.max_detections)
            output["prompt_boxes"], output["prompt_mask"] = detections.boxes, detections.mask
            output["detection_scores"] = detections.scores
        elif call.boxes and self.proposal_head is not None and rows.image_features is not None:
            output["box_scores"] = self._box_scores(rows, output.boxes)
        return output if resolved.return_dict_in_generate else output.sequences

    def _prompt_rows(self, given: dict[str, Any], *, detect: bool) -> tuple[PromptRows, Detections | None]:
        """The prompts of the call: given ones, or the objects that are found."""
        text = {name: given[name] for name in ("input_ids", "attention_mask", "query_ids", "decoder_input_ids")}
        if detect and text["decoder_input_ids"] is not None:
            raise ValueError("with detect_objects the number of answers is not known: leave out decoder_input_ids.")
        if given["encoder_outputs"] is not None:
            if detect:
                raise ValueError("detect_objects needs the image: pass pixel_values, not encoder_outputs.")
            states = given["encoder_outputs"][0]
            text |= {"input_ids": None, "attention_mask": full_encoder_mask(text["attention_mask"], states)}
            return PromptRows(encoder_states=states, **text), None
        places = {name.removeprefix("prompt_"): given[name] for name in _PROMPT_NAMES}
        if detect and self.proposal_head is None:
            raise ValueError(lacks_head("proposal", "detects no objects"))
        if detect and (named := [f"prompt_{name}" for name, value in places.items() if value is not None]):
            raise ValueError(
                f"with detect_objects the model finds the places itself, but {', '.join(named)} came too. "
                "Leave out either."
            )
        features = self.features_or_see(given["image_features"], given["pixel_values"], given["pixel_mask"])
        detections = None
        if detect:
            detections = self._detect(features.fused)
            places |= {"boxes": detections.boxes, "mask": detections.mask}
            for name in ("input_ids", "attention_mask"):
                text[name] = None if text[name] is None else detections.of_each_prompt(text[name], name)
        return PromptRows(image_features=features, pixel_mask=given["pixel_mask"], **places, **text), detections

    def _check_beginning(self, rows: PromptRows, call: GenerateCall) -> None:
        """Refuse what cannot be gone on from, and leave to the rows what belongs to them."""
        mask, cache = call.options.pop("decoder_attention_mask", None), call.options.get(CACHE_NAME)
        beginning, config = rows.decoder_input_ids, call.config
        if beginning is None and mask is None and cache is None:
            return
        if rows.query_ids is not None:
            raise ValueError("query_ids are whole answers: leave out decoder_input_ids, their mask and the cache.")
        if beginning is not None and call.own["reference_beam_search"]:
            raise ValueError("reference_beam_search begins with BOS alone: leave out either it or decoder_input_ids.")
        if cache is not None and len(rows) > call.own["prompts_at_once"]:
            raise ValueError(
                f"a cache belongs to one portion of prompts, but there are {len(rows)} prompts and prompts_at_once is "
                f"{call.own['prompts_at_once']}. Raise prompts_at_once or leave out the cache."
            )
        copies = max(config.num_beams or 1, config.num_return_sequences or 1)
        check_beginning(beginning, mask, start_id(config, self.config), cache, len(rows) * copies)

    def _detect(self, fused: Tensor) -> Detections:
        """The objects of every image, best first. Slots of the reference that hold no object are left out."""
        side = self.config.image_size  # as in the reference, where boxes may reach into the padding
        found = self.proposal_head(fused, (side, side))
        number = int(found.num_detections.max())
        boxes, scores = found.boxes[:, :number], found.scores[:, :number]
        exists = scores > 0
        return Detections(boxes.masked_fill(~exists[..., None], 0.0), exists, scores.clamp(min=0))

    def _box_scores(self, rows: PromptRows, boxes: Tensor) -> Tensor:
        """boxes (R,4) 0..1 of the unpadded image -> how well they agree with what the detector finds, (R,)."""
        copies = len(boxes) // len(rows)
        images = rows.prompt_mask.nonzero()[:, 0].repeat_interleave(copies)
        sizes = self.row_sizes_wh(rows.pixel_mask, rows.prompt_mask, len(rows)).repeat_interleave(copies, dim=0)
        return agreement(boxes.clamp(0, 1) * sizes.repeat(1, 2), images, self._detect(rows.image_features.fused))

    def _nothing(self, rows: PromptRows, call: GenerateCall) -> GroundedOutput:
        """The answers to no prompts."""
        if call.streamer is not None:
            call.streamer.end()
        sequences = torch.full((0, 1), start_id(call.config, self.config), device=rows.prompt_mask.device)
        width = self.point_head.points_per_token
        output = GroundedGenerateOutput(
            sequences=sequences,
            coordinates=sequences.new_zeros(0, 1, width, 2, dtype=torch.float32),
            token_log_probs=sequences.new_zeros(0, 1, dtype=torch.float32),
        )
        if call.boxes:
            output["boxes"] = sequences.new_zeros(0, 4, dtype=torch.float32)
        if call.masks:
            height, width = (4 * cells for cells in rows.image_features[self.config.vision_config.mask_map].shape[1:3])
            output["masks"] = sequences.new_zeros(0, height, width, dtype=torch.float32)
            output["mask_scores"] = sequences.new_zeros(0, dtype=torch.float32)
        return output

    def _in_portions(self, rows: PromptRows, call: GenerateCall) -> GroundedOutput:
        number, size = len(rows), int(call.own["prompts_at_once"])
        if size < 1:
            raise ValueError(f"prompts_at_once must be at least 1, but it is {size}. 64 suits most machines.")
        if number <= size:
            return self._answer(rows, call)
        per_step = [name for name in _PER_STEP_OUTPUTS if getattr(call.config, name, None)]
        if call.streamer is not None or per_step:
            what = "a streamer" if call.streamer is not None else ", ".join(per_step)
            raise ValueError(
                f"{what} can follow one portion of prompts, but there are {number} prompts and prompts_at_once is "
                f"{size}. Raise prompts_at_once or leave it out."
            )
        answers = [self._answer(portion, call) for portion in rows.portions(size)]
        return joined(answers, self.config.text_config.pad_token_id)

    def _answer(self, rows: PromptRows, call: GenerateCall) -> GroundedOutput:
        """Everything that is wanted of one portion."""
        visual, text_states = None, None
        layers = LayerOutputs.asked(call.config)
        if rows.encoder_states is not None:
            states, mask = rows.encoder_states, rows.attention_mask
        else:
            visual = self.get_visual_tokens(
                rows.image_features, rows.pixel_mask, rows.boxes, rows.points, rows.point_labels, rows.mask
            )
            length = self.config.mask_head_config.prompt_length if call.masks else 0
            states, mask = self.encode_prompts(
                visual, rows.input_ids, rows.attention_mask, length=length, layers=layers
            )
        if rows.query_ids is not None:
            output, text_states = self._follow(rows.query_ids, states, mask, call)
        else:
            output = self._write(states, mask, call, layers, rows.decoder_input_ids)
        if call.boxes:
            ends = end_ids(call.config) if rows.query_ids is None else eos_ids(call.config, self.config)
            words = last_words(output.sequences, ends)
            output["boxes"] = boxes_of_words(output.coordinates, words)
        if call.masks:
            copies = len(output.sequences) // len(states)
            visual, states, mask = (value.repeat_interleave(copies, dim=0) for value in (visual, states, mask))
            if text_states is None:
                text_states = self._masked_pass(output.sequences, output.coordinates, states, mask)
            output["masks"], output["mask_scores"] = self._masks(rows, visual, text_states, output.boxes)
        return output

    def _masked_pass(self, sequences: Tensor, coordinates: Tensor, states: Tensor, mask: Tensor) -> Tensor:
        """The reference's second pass, whose states of EOS and padding the mask head reads: (R,T,C)."""
        takes_part = coordinates.isfinite().flatten(2).all(-1)
        takes_part[:, 0] = True  # BOS
        tokens, takes_part = self.padded_for_masks(sequences, takes_part)
        return self.language_model.decode(tokens, states, mask, decoder_mask=takes_part)[0]

    def _masks(
        self, rows: PromptRows, visual_tokens: Tensor, text_states: Tensor, boxes: Tensor
    ) -> tuple[Tensor, Tensor]:
        """boxes (R,4) 0..1 of the unpadded image -> logits (R,4h,4w) and promised overlap (R,); NaN without a box."""
        images, copies = rows.prompt_mask.nonzero()[:, 0], len(boxes) // len(rows)
        images = images.repeat_interleave(copies)
        sizes = self.row_sizes_wh(rows.pixel_mask, rows.prompt_mask, len(rows)).repeat_interleave(copies, dim=0)
        known = boxes.isfinite().all(-1)
        canvas_boxes = boxes.nan_to_num(0.0) * sizes.repeat(1, 2)
        masks, promised = self.predict_masks(
            rows.image_features, visual_tokens, text_states, canvas_boxes, images
        ).best()
        masks = masks.float().masked_fill(~known[:, None, None], torch.nan)
        return masks, promised.float().masked_fill(~known, torch.nan)

    def _follow(
        self, query_ids: Tensor, states: Tensor, mask: Tensor, call: GenerateCall
    ) -> tuple[GroundedGenerateOutput, Tensor]:
        """The given answer read in one pass, and its states (R,T,C), padding's among them where masks are wanted."""
        if call.streamer is not None:
            raise ValueError("a streamer shows words as they are written, but query_ids are given. Leave out either.")
        start = query_ids.new_full((len(query_ids), 1), start_id(call.config, self.config))
        sequences = torch.cat([start, query_ids], dim=1)
        ended = is_one_of(sequences, eos_ids(call.config, self.config)).cumsum(1) > 0
        has_place = ~ended & (sequences != self.config.text_config.pad_token_id)
        has_place[:, 0] = False  # BOS
        tokens, takes_part = sequences, None
        if call.masks:
            takes_part = has_place.clone()
            takes_part[:, 0] = True
            tokens, takes_part = self.padded_for_masks(sequences, takes_part)
        text_states = self.language_model.decode(tokens, states, mask, decoder_mask=takes_part)[0]
        of_words = text_states[:, : sequences.shape[1]]
        log_probs = log_probs_of(self.language_model.logits(of_words[:, :-1]), sequences[:, 1:])
        log_probs = torch.nn.functional.pad(log_probs, (1, 0))
        output = GroundedGenerateOutput(
            sequences=sequences,
            coordinates=self.point_head(of_words).coordinates.masked_fill(~has_place[:, :, None, None], torch.nan),
            token_log_probs=log_probs.masked_fill(~has_place, torch.nan),
            sequences_scores=caption_scores(log_probs, has_place, ended) if call.rescores else None,
        )
        return output, text_states


def lacks_head(head: str, consequence: str) -> str:
    """What to say to someone who asks a model for what its config gives it no head for."""
    return (
        f"this model has no {head} head, so it {consequence} ({head}_head_config is None). Load a checkpoint that has "
        f"one, or give {head}_head_config a value in this one's config and train the new head."
    )


__all__ = ["GroundedGenerationMixin", "lacks_head"]
