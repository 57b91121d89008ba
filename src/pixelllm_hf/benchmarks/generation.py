"""Captions with locations against bare captions: transformers' own class around the very same weights."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, T5ForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutput

from pixelllm_hf.evaluation.bootstrap import Estimate
from pixelllm_hf.modeling.modeling_pixelllm import PixelLLMForGroundedGeneration

from .pairs import largest_difference, timed_in_turn

LIMIT = 1.05
# Captions that end by themselves, and captions cut off by the length limit, whose last token needs one more step.
CASES: dict[str, dict[str, Any]] = {
    "greedy, 1 row": dict(rows=1, beams=1),
    "greedy, 8 rows": dict(rows=8, beams=1),
    "4 beams, 1 row": dict(rows=1, beams=4),
    "greedy, 8 rows, cut": dict(rows=8, beams=1, cut=True),
}


@dataclass(frozen=True)
class GenerationRow:
    """Seconds of both ways (medians) and whether their tokens agree.

    ratio: median over the repeats, with its interval. extra_steps: what a cut row needs beyond the bare decoding, as a
    share of its steps; it is inherent, since the location of a word is read from the state that has consumed it.
    """

    bare: float
    grounded: float
    ratio: Estimate
    extra_steps: float
    tokens_equal: bool
    worst_location_error: float


def bare_language_model(model: PixelLLMForGroundedGeneration) -> T5ForConditionalGeneration:
    """transformers' own class around the very same weights, without anything of ours."""
    config = copy.deepcopy(model.config.text_config)
    config.num_layers = config.num_decoder_layers  # transformers makes as many layers of a cache as encoders have
    with torch.device("meta"):
        bare = T5ForConditionalGeneration(config)
    body: Any = model.language_model.body
    bare.shared, bare.encoder, bare.decoder = body.shared, body.encoder, body.decoder
    bare.lm_head = model.language_model.lm_head
    # the untied head takes the states as they are, as our language model does
    bare.config.tie_word_embeddings = bare.config.scale_decoder_outputs = False
    return bare.eval()


def compare(
    model: PixelLLMForGroundedGeneration,
    *,
    rows: int,
    beams: int,
    tokens: int,
    repeats: int,
    cut: bool = False,
    clock: str = "wall",
) -> GenerationRow:
    """Decode the same number of tokens from the same encoder states, with and without locations, turn by turn."""
    torch.manual_seed(1)
    shape = (rows, model.config.prompt_config.num_tokens + 8, model.config.text_config.d_model)
    states = torch.randn(shape, device=model.device, dtype=model.dtype)
    text = model.config.text_config
    settings = GenerationConfig(
        num_beams=beams,
        min_new_tokens=tokens if cut else tokens - 1,
        max_new_tokens=tokens,
        forced_eos_token_id=None if cut else text.eos_token_id,
        do_sample=False,
        decoder_start_token_id=text.decoder_start_token_id,
        pad_token_id=text.pad_token_id,
        eos_token_id=text.eos_token_id,
        return_dict_in_generate=True,
        no_repeat_ngram_size=0,  # else what the checkpoint asks for
        max_repeated_tokens=0,
    )
    bare = bare_language_model(model)

    def run(which: Any) -> Any:
        with torch.inference_mode():
            return which.generate(encoder_outputs=BaseModelOutput(last_hidden_state=states), generation_config=settings)

    found = timed_in_turn({"bare": lambda: run(bare), "grounded": lambda: run(model)}, repeats, clock)
    grounded = found.results["grounded"]
    return GenerationRow(
        found.median("bare"),
        found.median("grounded"),
        found.ratio("grounded", "bare"),
        1 / tokens if cut else 0.0,
        bool(torch.equal(found.results["bare"].sequences, grounded.sequences)),
        location_error(model, states, grounded.sequences, grounded.coordinates),
    )


def location_error(model: Any, states: Tensor, sequences: Tensor, coordinates: Tensor) -> float:
    """Largest difference to a teacher-forced second pass over the same tokens."""
    with torch.inference_mode():
        again = model(
            encoder_outputs=BaseModelOutput(last_hidden_state=states), decoder_input_ids=sequences
        ).coordinates
    return largest_difference(coordinates, again)


__all__ = ["CASES", "LIMIT", "GenerationRow", "bare_language_model", "compare", "location_error"]
