"""Answers that are given, not written: one pass reads the locations of their words (the official rule of referring)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .box_ops import after_end, is_one_of
from .grounded_generation import GenerateCall, ReadTargets, caption_scores, eos_ids, start_id
from .model_output import GroundedGenerateOutput
from .token_states import log_probs_of

if TYPE_CHECKING:
    from .modeling_pixelllm import PixelLLMForGroundedGeneration


def read_given(
    model: PixelLLMForGroundedGeneration,
    query_ids: Tensor,
    states: Tensor,
    mask: Tensor,
    call: GenerateCall,
    *,
    for_masks: bool,
    read_targets: ReadTargets | None = None,
) -> tuple[GroundedGenerateOutput, Tensor]:
    """query_ids (R,T), encoder states (R,S,…) and their mask (R,S) -> the answers with locations, and the states
    (R,T',C) that were read, as many as the mask head reads where it is to. read_targets: makes the output's `targets`.
    """
    if call.streamer is not None:
        raise ValueError("a streamer shows words as they are written, but query_ids are given. Leave out either.")
    start = query_ids.new_full((len(query_ids), 1), start_id(call.config, model.config))
    sequences = torch.cat([start, query_ids], dim=1)
    ended = after_end(sequences, eos_ids(call.config, model.config))
    has_location = ~ended & ~is_one_of(sequences, model.language_model.padding_id)
    has_location[:, 0] = False  # BOS
    tokens, takes_part = sequences, None
    if for_masks:
        takes_part = has_location.clone()
        takes_part[:, 0] = True
        tokens, takes_part = model.padded_for_masks(sequences, takes_part)
    text_states = model.language_model.decode(tokens, states, mask, decoder_mask=takes_part)[0]
    of_words = text_states[:, : sequences.shape[1]]
    log_probs = log_probs_of(model.language_model.logits(of_words[:, :-1]), sequences[:, 1:])
    log_probs = torch.nn.functional.pad(log_probs, (1, 0))
    output = GroundedGenerateOutput(
        sequences=sequences,
        **model.point_head.locate(model.location_states(of_words), has_location),
        token_log_probs=log_probs.masked_fill(~has_location, torch.nan),
        sequences_scores=caption_scores(log_probs, has_location, ended) if call.rescores else None,
        targets=None if read_targets is None else read_targets(sequences.masked_fill(ended, -1), of_words),
    )
    return output, text_states


__all__ = ["read_given"]
