"""Captions with locations against the official way: the whole sequence again for every token, once more for locations.

The reference keeps no cache (official.md#decoding) and reads the points in a second pass over the finished sequence.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutput

from pixelllm_hf.evaluation.bootstrap import Estimate
from pixelllm_hf.modeling.modeling_pixelllm import PixelLLMForGroundedGeneration

from .pairs import largest_difference, timed_in_turn
from .regions import greedy, region_inputs


@dataclass(frozen=True)
class DecodingRow:
    """seconds of both ways (medians); faster: the official way's as a multiple of ours; location_error: the largest
    difference of a coordinate, 0..1 of the image."""

    prompts: int
    ours: float
    official: float
    faster: Estimate
    tokens_equal: bool
    location_error: float


def compare(
    model: PixelLLMForGroundedGeneration, *, prompts: int, tokens: int, repeats: int, clock: str = "wall"
) -> DecodingRow:
    """Greedy answers of so many tokens to so many regions of a random image, from the same encoder states."""
    inputs: dict[str, Any] = region_inputs(model, prompts)
    with torch.inference_mode():
        states, _ = model.encode(**inputs)

    def ours() -> tuple[Any, Any]:
        output = model.generate(encoder_outputs=BaseModelOutput(last_hidden_state=states), **greedy(tokens))
        return output.sequences, output.coordinates

    with torch.inference_mode():
        found = timed_in_turn({"ours": ours, "official": lambda: official(model, states, tokens)}, repeats, clock)
    (sequences, points), (expected, expected_points) = found.results["ours"], found.results["official"]
    return DecodingRow(
        prompts=prompts,
        ours=found.median("ours"),
        official=found.median("official"),
        faster=found.ratio("official", "ours"),
        tokens_equal=bool(torch.equal(sequences, expected)),
        location_error=largest_difference(points, expected_points),
    )


def official(model: PixelLLMForGroundedGeneration, states: Tensor, tokens: int) -> tuple[Tensor, Tensor]:
    """Tokens (R,T), the first BOS, and locations (R,T,P,2) of encoder states (R,S,C), as the reference finds them.

    Its loop holds sequences of the full length from the start, and consumes all of it for every token. What makes this
    package faster is left out, its linear layers' own product too.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch, of processors that are not here
        with torch.backends.mkldnn.flags(enabled=False):
            return _official(model, states, tokens)


def _official(model: PixelLLMForGroundedGeneration, states: Tensor, tokens: int) -> tuple[Tensor, Tensor]:
    text, language_model = model.config.text_config, model.language_model
    sequences = states.new_full((len(states), tokens + 1), text.pad_token_id, dtype=torch.long)
    sequences[:, 0] = text.decoder_start_token_id
    banned = text.eos_token_id if isinstance(text.eos_token_id, list) else [text.eos_token_id]
    for step in range(tokens):
        read, _ = language_model.decode(sequences, states, None)
        scores = language_model.logits(read[:, step]).float()
        scores[:, banned] = -torch.inf
        sequences[:, step + 1] = scores.argmax(-1)
    read, _ = language_model.decode(sequences, states, None)
    return sequences, model.point_head(model.location_states(read)).coordinates


__all__ = ["DecodingRow", "compare", "official"]
