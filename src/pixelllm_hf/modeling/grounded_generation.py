"""transformers' own `generate` from encoded prompts on, with a location for every token in the same pass."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessorList
from transformers.cache_utils import Cache
from transformers.generation.streamers import BaseStreamer
from transformers.modeling_outputs import BaseModelOutput
from transformers.utils import ModelOutput

from .box_ops import after_end, padded_after_end
from .decoding_modes import OF_BEAMS, end_ids, pad_id
from .decoding_rules import rules_of_answers
from .language_model import GroundedLanguageModel
from .model_output import GroundedBeamGenerateOutput, GroundedGenerateOutput, LayerOutputs
from .point_head import PointHead
from .reference_beam_search import reference_beam_search
from .target_masks import AnswerTargets
from .token_states import (
    StateRecorder,
    TokenStatesMixin,
    current_recorder,
    log_probs_of,
    recording,
    states_of_locations,
)

GroundedOutput = GroundedGenerateOutput | GroundedBeamGenerateOutput
# sequences (R,T), -1 from their ends on, and the states (R,T,C) that have consumed them -> what they point at
ReadTargets = Callable[[Tensor, Tensor], AnswerTargets]


@dataclass
class GenerateCall:
    """What one call of `generate()` wants: its config, resolved and as given, its inputs, the options of our own and
    those of transformers. rescores: the answers need `sequences_scores`."""

    config: GenerationConfig
    given_config: GenerationConfig | None
    logits_processor: LogitsProcessorList | None
    streamer: BaseStreamer | None
    own: dict[str, Any]
    inputs: dict[str, Any]
    options: dict[str, Any]
    rescores: bool = False


class GroundedGenerationMixin(TokenStatesMixin):
    """transformers' `generate` with a location for every token, from encoded prompts on."""

    language_model: GroundedLanguageModel
    point_head: PointHead

    def write(
        self,
        states: Tensor,
        mask: Tensor,
        call: GenerateCall,
        layers: LayerOutputs | None,
        beginning: Tensor | None = None,
        read_targets: ReadTargets | None = None,
    ) -> GroundedOutput:
        """Search or sample the answers with transformers, keeping the state of every token.

        beginning (R,T): what the answers begin with, as decoder_input_ids. read_targets: makes `targets` of the output.
        """
        seen = {} if layers is None else layers.kept
        options, own, config = dict(call.options), call.own, call.given_config
        if beginning is not None:
            options["decoder_input_ids"] = beginning
        if config is None:
            options["return_dict_in_generate"] = True
        else:
            config = copy.deepcopy(config)
            config.return_dict_in_generate = True
        processors = LogitsProcessorList(call.logits_processor or [])
        processors += rules_of_answers(own, end_ids(call.config), self.config.target_token_ids)
        if own["reference_beam_search"]:
            if not end_ids(call.config):
                raise ValueError("reference_beam_search needs an end token: set eos_token_id or leave it out.")
            options["custom_generate"] = partial(
                reference_beam_search,
                alpha=own["reference_beam_alpha"],
                per_node_beam=own["reference_per_node_beam"],
            )
        streamer = call.streamer
        points_stream = hasattr(streamer, "put_location")
        recorder = StateRecorder(
            (lambda states: self._tell(streamer, states)) if points_stream else None,
            predicting=self.config.location_state == "predicting",
        )
        held = HeldEndStreamer(streamer) if streamer is not None else None
        with recording(recorder):
            output = super().generate(
                generation_config=config,
                logits_processor=processors,
                streamer=held,
                encoder_outputs=BaseModelOutput(
                    last_hidden_state=states,
                    hidden_states=seen.get("encoder_hidden_states"),
                    attentions=seen.get("encoder_attentions"),
                ),
                # none if it says nothing, and bool: every step would make something of it again
                attention_mask=None if mask.all() else mask,
                output_coordinates=False,
                **options,
            )
        output = self._with_locations(output, recorder, states, mask, call, read_targets)
        if held is not None:
            held.release()
        return output

    def prepare_inputs_for_generation(
        self,
        input_ids: Tensor,
        next_sequence_length: int | None = None,
        is_first_iteration: bool | None = False,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """The arguments of one step: the last next_sequence_length tokens (all by default), and kwargs as they are.

        transformers' own sorts the inputs of every kind of model anew at each step, which a small one feels. Here
        images and prompts have become encoder states before, and what it does for a static cache alone is left to do.
        """
        cache, recorder = kwargs.get("cache"), current_recorder()
        start = 0
        if cache is not None and is_first_iteration:
            # A given cache has consumed the beginning of the tokens; transformers would consume it again.
            start = int(cache.get_seq_length())
            next_sequence_length = input_ids.shape[1] - start
        elif cache is not None and recorder is not None:
            start = recorder.num_consumed
        if cache is not None and cache.is_compileable:
            model_inputs = super().prepare_inputs_for_generation(
                input_ids, next_sequence_length, is_first_iteration=is_first_iteration, **kwargs
            )
        else:
            tokens = input_ids if next_sequence_length is None else input_ids[:, -next_sequence_length:]
            model_inputs = kwargs  # a dictionary of this call alone
            # a copy: tokens of every step are laid out alike, which a compiled `forward` asks for
            model_inputs["decoder_input_ids"] = tokens.clone(memory_format=torch.contiguous_format)
            model_inputs.pop("labels", None)
        if recorder is not None:
            recorder.before_step(model_inputs["decoder_input_ids"], start)
        return model_inputs

    def _tell(self, streamer: Any, states: Tensor) -> None:
        """A streamer learns the location of the next token, (rows,P,2), and how sure it is; states (rows,C)."""
        located = self.point_head.locate(states, torch.ones(len(states), dtype=torch.bool, device=states.device))
        coordinates = located.pop("coordinates")
        if located and hasattr(streamer, "put_certainty"):
            streamer.put_certainty(**located)
        streamer.put_location(coordinates)

    def location_states(self, states: Tensor) -> Tensor:
        """Of the states (R,T,C) that have consumed tokens those that the tokens' locations are read from, likewise."""
        return states_of_locations(states, self.config.location_state)

    def _locating(self, has_location: Tensor) -> Tensor:
        """Which states (R,T) the locations of tokens (R,T) are read from."""
        if self.config.location_state == "consumed":
            return has_location
        return torch.nn.functional.pad(has_location[:, 1:], (0, 1))

    def _with_locations(
        self,
        output: ModelOutput,
        recorder: StateRecorder,
        encoder_states: Tensor,
        encoder_mask: Tensor,
        call: GenerateCall,
        read_targets: ReadTargets | None,
    ) -> GroundedOutput:
        """Sort the recorded states along the final sequences and read places and targets from them."""
        sequences = output.sequences
        beam_indices = output.get("beam_indices")
        beams = beam_indices is not None
        ended, pad = after_end(sequences, end_ids(call.config)), pad_id(call.config, self.config)
        if pad is not None:  # transformers' beams fill with EOS where the id of padding is 0
            sequences = output["sequences"] = padded_after_end(sequences, ended, pad)
        has_location = ~ended & ~trailing(sequences, pad)
        has_location[:, 0] = False  # BOS
        states, log_probs = recorder.gather(sequences, beam_indices)
        lacking = self._locating(has_location) & states.isnan().any(-1) | has_location & log_probs.isnan()
        if lacking.any():
            cache = None if beams else getattr(output, "cache", None)
            states, log_probs = self._filled(states, log_probs, lacking, sequences, encoder_states, encoder_mask, cache)
        if recorder.on_states is not None and recorder.num_consumed < sequences.shape[1] and has_location[:, -1].any():
            recorder.on_states(self.location_states(states)[:, -1])
        located = self.point_head.locate(self.location_states(states), has_location)
        if call.rescores and not beams:
            output["sequences_scores"] = caption_scores(log_probs, has_location, ended)
        log_probs = log_probs.masked_fill(~has_location, torch.nan)
        if beams and getattr(output, "cache", None) is not None:
            setattr(output.cache, OF_BEAMS, True)
        kind = GroundedBeamGenerateOutput if beams else GroundedGenerateOutput
        targets = None if read_targets is None else read_targets(sequences.masked_fill(ended, -1), states)
        return kind(**output, **located, token_log_probs=log_probs, targets=targets)

    def _filled(
        self,
        states: Tensor,
        log_probs: Tensor,
        lacking: Tensor,
        sequences: Tensor,
        encoder_states: Tensor,
        encoder_mask: Tensor,
        cache: Cache | None,
    ) -> tuple[Tensor, Tensor]:
        """What no decoding loop computes: of tokens that a limit left unconsumed, or that a given cache had consumed.

        states (R,T,C) and log_probs (R,T), lacking (R,T) bool -> the same with what was lacking. One more step where
        the cache still belongs to these sequences, which then forgets it again; otherwise the rows are read again.
        """
        rows = lacking.any(1)
        copies = len(sequences) // len(encoder_states)
        encoder_states = encoder_states.repeat_interleave(copies, dim=0)
        encoder_mask = encoder_mask.repeat_interleave(copies, dim=0)
        of_step = cache is not None and _can_go_on(cache, encoder_states, sequences.shape[1] - 1)
        if of_step and not lacking[:, :-1].any() and not log_probs[rows, -1].isnan().any():
            step = self.language_model.decode(
                sequences[:, -1:], encoder_states, encoder_mask, cache=cache, use_cache=True
            )
            states[rows, -1] = step[0][rows, -1].float()
            _forget_last(cache)
            return states, log_probs
        read = self._read_again(sequences[rows], encoder_states[rows], encoder_mask[rows])
        chosen = log_probs_of(self.language_model.logits(read[:, :-1]), sequences[rows, 1:])
        chosen = torch.nn.functional.pad(chosen, (1, 0), value=torch.nan)
        states[rows] = states[rows].where(~states[rows].isnan().any(-1, keepdim=True), read.float())
        log_probs[rows] = log_probs[rows].where(~log_probs[rows].isnan(), chosen)
        return states, log_probs

    def _read_again(self, sequences: Tensor, encoder_states: Tensor, encoder_mask: Tensor) -> Tensor:
        """The states (R,T,C) of whole sequences (R,T), of one pass without a cache."""
        return self.language_model.decode(sequences, encoder_states, encoder_mask)[0]


class HeldEndStreamer(BaseStreamer):
    """Passes tokens on but holds `end()` back until the last token's location is known too."""

    def __init__(self, streamer: BaseStreamer):
        self.streamer = streamer

    def put(self, value: Tensor) -> None:
        self.streamer.put(value)

    def end(self) -> None:
        """Nothing yet; `release` ends the stream."""

    def release(self) -> None:
        self.streamer.end()


def _can_go_on(cache: Cache, encoder_states: Tensor, num_consumed: int) -> bool:
    """Whether one token more can be consumed with the cache of a finished decoding, which has consumed so many.

    A static cache has no room. Where a training library runs `forward` alone in mixed precision, keys and values were
    kept in another one than the states are in.
    """
    layers = getattr(cache, "self_attention_cache", cache).layers
    usable = not cache.is_compileable and layers[0].keys.dtype == encoder_states.dtype
    return usable and int(cache.get_seq_length()) == num_consumed


def _forget_last(cache: Cache) -> None:
    """Take back the last consumed token, so that a caller can go on from the cache as from transformers' own."""
    getattr(cache, "self_attention_cache", cache).crop(-1)


def eos_ids(config: GenerationConfig, model_config: Any) -> list[int]:
    """The ids that end an answer, whatever ends the writing of one: without any those of the vocabulary."""
    own = model_config.text_config.eos_token_id
    return end_ids(config) or ([] if own is None else torch.as_tensor(own).flatten().tolist())


def trailing(sequences: Tensor, pad: int | None) -> Tensor:
    """Padding at the end of sequences (R,T), also where a criterion and no end token stopped the row: (R,T) bool."""
    if pad is None:
        return torch.zeros_like(sequences, dtype=torch.bool)
    return (sequences != pad).flip(1).cumsum(1).flip(1) == 0


def start_id(config: GenerationConfig, model_config: Any) -> int:
    start = config.decoder_start_token_id
    return model_config.text_config.decoder_start_token_id if start is None else start


def caption_scores(log_probs: Tensor, has_location: Tensor, ended: Tensor) -> Tensor:
    """The reference's score of a greedy caption: log-probability of its words and EOS over the number of words.

    log_probs (R,T), has_location (R,T) words, ended (R,T) from EOS on -> (R,).
    """
    counts = has_location | (ended & (ended.cumsum(1) == 1))
    return log_probs.masked_fill(~counts, 0.0).sum(1) / has_location.sum(1).clamp(min=1)


__all__ = [
    "GenerateCall",
    "GroundedGenerationMixin",
    "GroundedOutput",
    "ReadTargets",
    "caption_scores",
    "eos_ids",
    "start_id",
]
