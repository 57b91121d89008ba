"""`generate()` of a PixelLM: answers with a mask for each of their targets, in one decoding pass with a cache.

The state that predicts a codebook token says what that token means (as released). transformers' loops run as they are;
the recorder keeps the state of every consumed token, and the one before a token is the one that predicts it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList
from transformers.cache_utils import Cache
from transformers.utils import ModelOutput

from .box_ops import is_one_of, padded_after_end
from .codebook_targets import find_token_groups
from .decoding_modes import PER_STEP_OUTPUTS, check_counts, end_ids, pad_id, refuse_unkept_modes
from .decoding_rules import ANSWER_OPTIONS, rules_of_answers
from .losses import IGNORE_INDEX
from .prompt_rows import check_text_mask
from .target_masks import AnswerTargets, decoded_targets
from .token_states import StateRecorder, TokenStatesMixin, current_recorder, recording


@dataclass
class PixelLMGenerateOutput(AnswerTargets):
    """Answers with the masks of their targets.

    sequences (R,T) int64 what was written, without the question; token_log_probs (R,T) float32, the model's own
    log-probability of each token, NaN from the end on; sequences_scores (R,) of a beam search. The rest as in
    `AnswerTargets`.
    """

    sequences: Tensor | None = None
    token_log_probs: Tensor | None = None
    sequences_scores: Tensor | None = None


class NeverWritten(LogitsProcessor):
    """A token that is no word. Not transformers' own processor, which would take the place of the caller's."""

    def __init__(self, token: int):
        self.token = token

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        scores = scores.clone()
        scores[:, self.token : self.token + 1] = -torch.inf
        return scores


class EndOfRoom(StoppingCriteria):
    """Rows end at this length, question and padding counted; None is never."""

    def __init__(self, length: int | None):
        self.length = length

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        ends = self.length is not None and input_ids.shape[1] >= self.length
        return torch.full((len(input_ids),), ends, dtype=torch.bool, device=input_ids.device)


class ReasoningGenerationMixin(TokenStatesMixin):
    """The writing half of a PixelLM."""

    recorded_states = "states"

    @torch.no_grad()
    def generate(  # type: ignore[override]
        self,
        pixel_values: Tensor | None = None,
        pixel_mask: Tensor | None = None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        prompt_mask: Tensor | None = None,
        image_features: Any = None,
        original_sizes: Tensor | None = None,
        prompt_characters: Tensor | None = None,
        labels: Tensor | None = None,
        mask_labels: Tensor | None = None,
        generation_config: GenerationConfig | None = None,
        logits_processor: LogitsProcessorList | None = None,
        **options: Any,
    ) -> PixelLMGenerateOutput | Tensor | None:
        """Answer R questions about B images.

        Args:
            pixel_values, pixel_mask, input_ids, attention_mask, prompt_mask, image_features: as in `forward`; shorter
                questions may be padded on either side.
                Answers end where the language model has no position left.
            original_sizes, prompt_characters: travel with the inputs for post-processing.
            labels: (R,T) of a batch that is trained on, as `forward` takes them: of input_ids what stands before the
                first label is the question, and is answered. mask_labels change nothing.
            options: of transformers' `generate`; greedy decoding, sampling and beam search. With
                return_dict_in_generate=False the sequences alone; that is the default where synced_gpus is given, as
                `Seq2SeqTrainer` does. And of our own, as keywords or entries of the
                generation config, with what a PixelLLM's mean: complete_groups (True), max_repeated_tokens,
                max_repeated_targets and no_immediate_repetition.
        """
        if input_ids is None:
            raise ValueError("a PixelLM answers questions: expected input_ids with the image's tokens in it, got none.")
        if image_features is None:
            if pixel_values is None:
                raise ValueError("expected pixel_values or image_features beside input_ids, but got neither.")
            image_features = self.get_image_features(pixel_values, pixel_mask)
        images = len(image_features.image_tokens)
        image_of_row = self.image_of_row(prompt_mask, images, len(input_ids)).to(input_ids.device)
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        check_text_mask(input_ids, attention_mask)
        if labels is not None:
            input_ids, attention_mask = questions_alone(input_ids, attention_mask, labels)
        input_ids, attention_mask = padded_on_the_left(input_ids, attention_mask)
        for_trainer = "synced_gpus" in options and generation_config is None  # Seq2SeqTrainer: a tensor of its width
        if for_trainer:
            options.setdefault("return_dict_in_generate", False)
        wants_dict = options.pop("return_dict_in_generate", None)
        resolved, _ = self._prepare_generation_config(generation_config, **options)
        if (
            for_trainer and resolved.max_new_tokens is None
        ):  # its max_length is of what is written, without the question
            defaults = resolved._get_default_generation_params()
            options |= {"max_new_tokens": resolved.max_length or defaults["max_length"], "max_length": None}
        refuse_unkept_modes(resolved, options)
        own = {name: options.pop(name, getattr(resolved, name, default)) for name, default in ANSWER_OPTIONS.items()}
        check_counts(resolved, own)
        if per_step := [name for name in PER_STEP_OUTPUTS if getattr(resolved, name, None)]:
            raise ValueError(
                f"{', '.join(per_step)}: a PixelLM's answer has no outputs of each step. Leave them out; "
                "token_log_probs says how likely each token was."
            )
        stops = StoppingCriteriaList(options.pop("stopping_criteria", None) or [])
        stops.append(self._end_of_room(attention_mask))
        processors = LogitsProcessorList(logits_processor or [])
        # the placeholder of what is seen is no word to write
        processors.append(NeverWritten(self.config.image_token_id))
        processors += rules_of_answers(own, end_ids(resolved), self.config.codebook_token_ids, begin=input_ids.shape[1])
        recorder = StateRecorder()
        with recording(recorder):
            output = super().generate(
                input_ids=input_ids,
                attention_mask=attention_mask,
                image_features=image_features,
                image_of_row=image_of_row,
                generation_config=generation_config,
                logits_processor=processors,
                stopping_criteria=stops,
                return_dict_in_generate=True,
                **options,
            )
        answer = self._with_masks(
            output, recorder, image_features, image_of_row, pixel_mask, input_ids.shape[1], resolved
        )
        return answer.sequences if wants_dict is False else answer

    def _end_of_room(self, attention_mask: Tensor) -> EndOfRoom:
        """Ends answers where the language model has no position for another token; raises if there is none at all."""
        most = getattr(self.config.text_config, "max_position_embeddings", None)
        asked = int(attention_mask.sum(1).max()) if attention_mask.numel() else 0
        if most is not None and asked >= most:
            raise ValueError(
                f"a question has {asked} tokens with those of its image, but the language model reads {most} in all "
                "(max_position_embeddings), so nothing could be answered. Ask shorter questions."
            )
        return EndOfRoom(None if most is None else attention_mask.shape[1] + most - asked)

    def _with_masks(
        self,
        output: ModelOutput,
        recorder: StateRecorder,
        image_features: Any,
        image_of_row: Tensor,
        pixel_mask: Tensor | None,
        asked: int,
        config: GenerationConfig,
    ) -> PixelLMGenerateOutput:
        """Sort the recorded states along the final sequences and decode the targets in what was written."""
        states, log_probs = recorder.gather(output.sequences, getattr(output, "beam_indices", None))
        written = output.sequences[:, asked:]
        ended, pad = is_one_of(written, end_ids(config)).cumsum(1) > 0, pad_id(config, self.config)
        if pad is not None:  # transformers' beams fill with EOS where the id of padding is 0
            written = padded_after_end(written, ended, pad)
        groups = find_token_groups(written.masked_fill(ended, -1), self.config.codebook_token_ids)
        predicting = states[groups.row[:, None], groups.positions + asked - 1]
        image_of_row = image_of_row.repeat_interleave(len(written) // len(image_of_row))
        targets = decoded_targets(
            groups,
            predicting.to(self.dtype),
            image_of_row[groups.row],
            lambda group_states, images: self.predict_masks(image_features, group_states, images).logits,
            pixel_mask,
        )
        return PixelLMGenerateOutput(
            **targets,
            sequences=written,
            token_log_probs=log_probs[:, asked:].masked_fill(ended, torch.nan),
            sequences_scores=getattr(output, "sequences_scores", None),
        )

    def prepare_inputs_for_generation(
        self,
        input_ids: Tensor,
        next_sequence_length: int | None = None,
        is_first_iteration: bool | None = False,
        *,
        attention_mask: Tensor | None = None,
        image_features: Any = None,
        image_of_row: Tensor | None = None,
        cache: Cache | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """The arguments of one step: embeddings of the new tokens, and the whole row's mask and positions."""
        row = input_ids, attention_mask, image_features, image_of_row
        start, recorder = 0, current_recorder()
        if is_first_iteration or next_sequence_length is None:
            new = input_ids
            embeddings, mask, positions = self.embed(*row)
        else:  # the image's tokens are in the cache, and none is ever written
            new = input_ids[:, -next_sequence_length:]
            embeddings = self.get_input_embeddings()(new)
            mask, positions = self.attended(*row)
            start = 0 if recorder is None else recorder.num_consumed
        if recorder is not None:
            recorder.before_step(new, start)
        return {
            "inputs_embeds": embeddings,
            "attention_mask": mask,
            "position_ids": positions[:, -new.shape[1] :],
            "cache": cache,
            "use_cache": kwargs.get("use_cache"),
        }


def questions_alone(input_ids: Tensor, attention_mask: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Questions (R,L) and their mask out of rows (R,T) that go on with the answers, which begin at the first label."""
    if labels.shape != input_ids.shape:
        raise ValueError(
            f"labels must have the shape of input_ids, in which the answers stand behind their questions, but the "
            f"shapes are {tuple(labels.shape)} and {tuple(input_ids.shape)}. Leave labels out to answer questions."
        )
    asked = attention_mask.bool() & ((labels != IGNORE_INDEX).cumsum(1) == 0)
    longest = int((asked.cumsum(1).argmax(1) + 1).max()) if asked.numel() else 0
    # Behind a shorter question its answer begins: not seen, but rules about repetition read what is written.
    first = input_ids[:, :1].expand_as(input_ids)
    return torch.where(asked, input_ids, first)[:, :longest], asked[:, :longest].to(attention_mask.dtype)


def padded_on_the_left(input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
    """Rows (R,T) with their valid tokens moved to the right end, in order: what is written goes on from there."""
    order = attention_mask.bool().int().sort(dim=1, stable=True).indices
    return input_ids.gather(1, order), attention_mask.gather(1, order)


__all__ = [
    "PixelLMGenerateOutput",
    "ReasoningGenerationMixin",
    "padded_on_the_left",
    "questions_alone",
]
