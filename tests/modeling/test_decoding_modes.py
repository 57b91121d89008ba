"""What `generate()` refuses by name, and whose length counts."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import GenerationConfig


def longest(model, inputs, **options) -> int:
    """Tokens of the answer, BOS among them, where nothing ends it but a limit."""
    return model.generate(**inputs, suppress_tokens=[1], **options).sequences.shape[1]


@pytest.fixture
def bounded_model(small_model):
    """As a checkpoint comes: with limits of its own in the generation config."""
    small_model.generation_config.max_new_tokens = 12
    return small_model


UNKEPT = {
    "prompt_lookup_num_tokens": {"prompt_lookup_num_tokens": 2},
    "use_mtp": {"use_mtp": True},
    "assistant_early_exit": {"assistant_early_exit": 1},
    "token_healing": {"token_healing": True},
    "custom_generate": {"custom_generate": lambda *given, **named: None},
    "penalty_alpha": {"penalty_alpha": 0.6, "top_k": 4},
    "dola_layers": {"dola_layers": "low"},
    "num_beam_groups": {"num_beam_groups": 2, "num_beams": 4, "diversity_penalty": 0.2},
    "force_words_ids": {"force_words_ids": [[5]], "num_beams": 2},
    "guidance_scale": {"guidance_scale": 1.5},
    "prefill_chunk_size": {"prefill_chunk_size": 2},
}


@pytest.mark.parametrize("name", UNKEPT)
@torch.no_grad()
def test_a_mode_that_keeps_no_state_per_token_is_refused_by_name(small_model, small_inputs, name):
    with pytest.raises(ValueError, match=name):
        small_model.generate(**small_inputs, max_new_tokens=4, **UNKEPT[name])


@pytest.mark.parametrize("name", ["prompt_lookup_num_tokens", "use_mtp", "penalty_alpha"])
@torch.no_grad()
def test_a_mode_of_the_generation_config_is_refused_too(small_model, small_inputs, name):
    with pytest.raises(ValueError, match=name):
        small_model.generate(**small_inputs, generation_config=GenerationConfig(max_new_tokens=4, **UNKEPT[name]))
    for key, value in UNKEPT[name].items():
        setattr(small_model.generation_config, key, value)
    with pytest.raises(ValueError, match=name):
        small_model.generate(**small_inputs, max_new_tokens=4)


@torch.no_grad()
def test_an_assistant_model_is_refused_by_name(small_model, small_inputs):
    with pytest.raises(ValueError, match="assistant_model.*query_ids"):
        small_model.generate(**small_inputs, max_new_tokens=4, assistant_model=small_model)


@torch.no_grad()
def test_the_callers_max_length_wins_over_the_checkpoints_max_new_tokens(bounded_model, small_inputs):
    assert longest(bounded_model, small_inputs) == 13
    assert longest(bounded_model, small_inputs, max_length=5) == 5
    assert longest(bounded_model, small_inputs, max_length=20) == 20
    assert longest(bounded_model, small_inputs, max_length=5, num_beams=2) == 5
    assert longest(bounded_model, small_inputs, generation_config=GenerationConfig(max_length=5)) == 5


@torch.no_grad()
def test_a_changed_copy_of_the_checkpoints_generation_config_counts_as_changed(bounded_model, small_inputs):
    config = copy.deepcopy(bounded_model.generation_config)
    config.max_length = 5
    assert longest(bounded_model, small_inputs, generation_config=config) == 5


@torch.no_grad()
def test_a_keyword_wins_over_a_given_generation_config(bounded_model, small_inputs):
    given = GenerationConfig(max_new_tokens=7)
    assert longest(bounded_model, small_inputs, generation_config=given, max_length=5) == 5
    assert longest(bounded_model, small_inputs, generation_config=GenerationConfig(max_length=5), max_new_tokens=7) == 8


@torch.no_grad()
def test_of_two_lengths_of_equal_rank_the_new_tokens_count_as_in_transformers(bounded_model, small_inputs):
    assert longest(bounded_model, small_inputs, max_length=5, max_new_tokens=7) == 8
    bounded_model.generation_config.max_length = 5
    assert longest(bounded_model, small_inputs) == 13


@torch.no_grad()
def test_the_callers_min_length_wins_over_the_checkpoints_min_new_tokens(bounded_model, small_inputs):
    bounded_model.generation_config.min_new_tokens = 6
    end = [lambda ids, scores: scores.index_add(1, torch.tensor([1]), torch.full((len(scores), 1), 50.0))]
    ended = bounded_model.generate(**small_inputs, logits_processor=list(end), min_length=3).sequences
    assert (ended[:, 3] == 1).all() and ended.shape[1] == 4
    assert bounded_model.generate(**small_inputs, logits_processor=list(end)).sequences.shape[1] == 8


@torch.no_grad()
def test_a_max_length_counts_the_beginning_that_is_given(bounded_model, small_inputs):
    beginning = torch.tensor([[0, 5, 6]] * 3)
    assert longest(bounded_model, small_inputs, decoder_input_ids=beginning, max_length=5) == 5
    assert longest(bounded_model, small_inputs, decoder_input_ids=beginning, max_new_tokens=5) == 8
