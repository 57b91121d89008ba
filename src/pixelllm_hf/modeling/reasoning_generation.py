"""`generate()` of a PixelLM: answers with a mask for each of their targets, in one decoding pass with a cache.

The state that predicts a codebook token says what that token means (as released). transformers' loops run as they are;
the recorder keeps the state of every consumed token, and the one before a token is the one that predicts it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig
from transformers import LogitsProcessor
from transformers import LogitsProcessorList
from transformers import SuppressTokensLogitsProcessor
from transformers.cache_utils import Cache
from transformers.utils import ModelOutput

from .box_ops import is_one_of
from .codebook_targets import find_token_groups
from .decoding_modes import end_ids
from .decoding_modes import refuse_unkept_modes
from .token_states import StateRecorder
from .token_states import TokenStatesMixin
from .token_states import current_recorder
from .token_states import recording

# Targets are decoded in chunks, so that memory does not grow with their number: each holds maps of its own.
TARGET_CHUNK_SIZE = 16


@dataclass
class PixelLMGenerateOutput(ModelOutput):
    """Answers with the masks of their targets.

    sequences (R,T) int64 what was written, without the question; token_log_probs (R,T) float32, the model's own
    log-probability of each token, NaN from the end on. Of the K targets, row after row in the order they are written:
    row_of_target (K,), target_positions (K,G) of their tokens in the row's sequence, mask_logits (K,h,w) float32 over
    the whole canvas, > 0 inside, mask_scores (K,) mean probability inside, 0 for an empty mask. incomplete (R,) bool:
    answers with codebook tokens that belong to no complete target, e.g. cut off by the length limit.
    sequences_scores (R,) of a beam search.
    """

    sequences: Tensor | None = None
    token_log_probs: Tensor | None = None
    row_of_target: Tensor | None = None
    target_positions: Tensor | None = None
    mask_logits: Tensor | None = None
    mask_scores: Tensor | None = None
    incomplete: Tensor | None = None
    sequences_scores: Tensor | None = None


class CompleteTokenGroups(LogitsProcessor):
    """A target's tokens follow each other: after one that is not the last only the next, and none out of turn."""

    def __init__(self, codebook_ids: Sequence[int]):
        self.codebook_ids = list(codebook_ids)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        last = input_ids[:, -1]
        scores = scores.clone()
        scores[:, self.codebook_ids[1:]] = -torch.inf
        for token, follower in zip(self.codebook_ids, self.codebook_ids[1:], strict=False):
            begun = last == token
            scores[begun] = -torch.inf
            scores[begun, follower] = 0.0
        return scores


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
        generation_config: GenerationConfig | None = None,
        logits_processor: LogitsProcessorList | None = None,
        complete_groups: bool = True,
        **options: Any,
    ) -> PixelLMGenerateOutput | Tensor | None:
        """Answer R questions about B images.

        Args:
            pixel_values, pixel_mask, input_ids, attention_mask, prompt_mask, image_features: as in `forward`; shorter
                questions may be padded on either side.
            original_sizes: travels with the inputs for post-processing.
            complete_groups: let a target that is begun be written whole, whatever the model would write.
            options: of transformers' `generate`; greedy decoding, sampling and beam search. With
                return_dict_in_generate=False the sequences alone.
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
        input_ids, attention_mask = padded_on_the_left(input_ids, attention_mask)
        wants_dict = options.pop("return_dict_in_generate", None)
        resolved, _ = self._prepare_generation_config(generation_config, **options)
        refuse_unkept_modes(resolved, options)
        processors = LogitsProcessorList(logits_processor or [])
        # the placeholder of what is seen is no word to write
        processors.append(SuppressTokensLogitsProcessor([self.config.image_token_id], device=self.device))
        if complete_groups:
            processors.append(CompleteTokenGroups(self.config.codebook_token_ids))
        recorder = StateRecorder()
        with recording(recorder):
            output = super().generate(
                input_ids=input_ids,
                attention_mask=attention_mask,
                image_features=image_features,
                image_of_row=image_of_row,
                generation_config=generation_config,
                logits_processor=processors,
                return_dict_in_generate=True,
                **options,
            )
        answer = self._with_masks(output, recorder, image_features, image_of_row, input_ids.shape[1], resolved)
        return answer.sequences if wants_dict is False else answer

    def _with_masks(
        self,
        output: ModelOutput,
        recorder: StateRecorder,
        image_features: Any,
        image_of_row: Tensor,
        asked: int,
        config: GenerationConfig,
    ) -> PixelLMGenerateOutput:
        """Sort the recorded states along the final sequences and decode the targets in what was written."""
        states, log_probs = recorder.gather(output.sequences, getattr(output, "beam_indices", None))
        written = output.sequences[:, asked:]
        ended = is_one_of(written, end_ids(config)).cumsum(1) > 0
        groups = find_token_groups(written.masked_fill(ended, -1), self.config.codebook_token_ids)
        predicting = states[groups.row[:, None], groups.positions + asked - 1]
        image_of_row = image_of_row.repeat_interleave(len(written) // len(image_of_row))
        image_of_target = image_of_row[groups.row]
        decoded = [
            self.predict_masks(image_features, chunk.to(self.dtype), images).logits.float()
            for chunk, images in zip(
                predicting.split(TARGET_CHUNK_SIZE), image_of_target.split(TARGET_CHUNK_SIZE), strict=True
            )
        ]
        logits = torch.cat(decoded)
        return PixelLMGenerateOutput(
            sequences=written,
            token_log_probs=log_probs[:, asked:].masked_fill(ended, torch.nan),
            row_of_target=groups.row,
            target_positions=groups.positions,
            mask_logits=logits,
            mask_scores=mask_scores(logits),
            incomplete=groups.incomplete,
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


def padded_on_the_left(input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
    """Rows (R,T) with their valid tokens moved to the right end, in order: what is written goes on from there."""
    order = attention_mask.bool().int().sort(dim=1, stable=True).indices
    return input_ids.gather(1, order), attention_mask.gather(1, order)


def mask_scores(logits: Tensor) -> Tensor:
    """Mean probability of the pixels inside, (K,H,W) -> (K,); 0 for an empty mask."""
    inside = (logits > 0).float()
    return (logits.sigmoid() * inside).flatten(1).sum(1) / (inside.flatten(1).sum(1) + 1e-6)


__all__ = [
    "CompleteTokenGroups",
    "PixelLMGenerateOutput",
    "ReasoningGenerationMixin",
    "mask_scores",
    "padded_on_the_left",
]
