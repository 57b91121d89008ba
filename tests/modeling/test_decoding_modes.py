"""What `generate()` refuses by name, and whose length counts."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from transformers import GenerationConfig

from pixelllm_hf import embedded_checkpoint
from pixelllm_hf.modeling.modeling_pixelllm import PixelLLMForGroundedGeneration


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


def test_continuous_batching_is_refused_by_name(small_model):
    with pytest.raises(ValueError, match="continuous batching.*generate_batch"):
        small_model.generate_batch([[5, 6]], max_new_tokens=2)


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


@pytest.mark.parametrize("mode", [{}, {"use_cache": False}, {"num_beams": 2, "num_return_sequences": 2}], ids=str)
@pytest.mark.parametrize("period", [1, 3])
@torch.no_grad()
def test_an_answer_that_goes_round_in_circles_ends(small_model, small_inputs, period, mode):
    def circle(ids, scores):
        scores = torch.full_like(scores, -20.0)
        scores[:, 7 + (ids.shape[1] - 1) % period] = 0.0
        return scores

    options = {"max_new_tokens": 30, "logits_processor": [circle], **mode}
    assert small_model.generate(**small_inputs, **options).sequences.shape[1] == 31
    out = small_model.generate(**small_inputs, **options, max_repeated_tokens=6).sequences
    first = out[:: mode.get("num_return_sequences", 1)] if not mode.get("num_beams") else out[:1]
    if not mode.get("num_beams"):  # beams prefer what does not repeat itself
        assert (first[:, 1 + period + 6] == 1).all()
    for row in out.tolist():
        words = row[1 : row.index(1)] if 1 in row else row[1:]
        assert not any(
            words[i : i + 6] == words[i + p : i + p + 6]
            for i in range(20)
            for p in range(1, 7)
            if i + p + 7 <= len(words)
        )


@torch.no_grad()
def test_what_repeats_itself_less_or_not_directly_goes_on(small_model, small_inputs):
    told = [5, 6, 7, 8, 9, 5, 6, 7, 8, 10, 11, 12, 5, 6, 7, 8, 9, 13, 14]

    def recite(ids, scores):
        scores = torch.full_like(scores, -20.0)
        scores[:, told[ids.shape[1] - 1]] = 0.0
        return scores

    out = small_model.generate(
        **small_inputs, max_new_tokens=len(told), logits_processor=[recite], max_repeated_tokens=5
    )
    assert out.sequences[0, 1:].tolist() == told


@torch.no_grad()
def test_a_shortest_length_is_kept_by_an_answer_in_circles(small_model, small_inputs):
    push = [lambda ids, scores: scores.index_add(1, torch.tensor([7]), torch.full((len(scores), 1), 1e3))]
    options = {"logits_processor": push, "max_new_tokens": 15, "max_repeated_tokens": 4}
    assert small_model.generate(**small_inputs, **options).sequences.shape[1] == 7
    assert small_model.generate(**small_inputs, **options, min_new_tokens=10).sequences.shape[1] == 12


@torch.no_grad()
def test_options_of_our_own_stay_in_the_generation_config_of_a_saved_model(small_model, small_inputs, tmp_path):
    push = [lambda ids, scores: scores.index_add(1, torch.tensor([7]), torch.full((len(scores), 1), 1e3))]
    small_model.generation_config.max_repeated_tokens = 4
    small_model.save_pretrained(tmp_path)
    loaded = type(small_model).from_pretrained(tmp_path).eval()
    assert loaded.generate(**small_inputs, max_new_tokens=15, logits_processor=push).sequences.shape[1] == 7
    plain = loaded.generate(**small_inputs, max_new_tokens=15, logits_processor=push, max_repeated_tokens=0)
    assert plain.sequences.shape[1] == 16


@torch.no_grad()
def test_answers_of_the_embedded_checkpoint_on_unknown_images_do_not_go_round_in_circles():
    model = PixelLLMForGroundedGeneration.from_pretrained(embedded_checkpoint("tiny")).eval()
    # Noise, of which the model knows nothing.
    pixels = torch.rand(6, 3, 160, 160, generator=torch.Generator().manual_seed(5)) * 255
    repeats = []
    for options in ({"max_repeated_tokens": 0}, {}):
        rows = model.generate(pixel_values=pixels, max_new_tokens=96, **options).sequences.tolist()
        words = [[token for token in row if token > 1] for row in rows]
        repeats.append(
            [
                any(w[i : i + 11] == w[i + p : i + p + 11] for p in range(1, 11) for i in range(len(w) - p - 10))
                for w in words
            ]
        )
    assert any(repeats[0]) and not any(repeats[1])


@pytest.mark.parametrize("name", ["num_beams", "num_return_sequences", "prompt_chunk_size", "max_repeated_tokens"])
@pytest.mark.parametrize("value", [-1, 1.5])
def test_a_number_that_no_search_can_have_is_refused_by_name(small_model, small_inputs, name, value):
    with pytest.raises(ValueError, match=f"{name} must be a whole number of at least [01]"):
        small_model.generate(**small_inputs, max_new_tokens=2, do_sample=True, **{name: value})


def test_no_beams_are_refused_and_a_number_of_numpy_is_not(small_model, small_inputs):
    with pytest.raises(ValueError, match="num_beams must be a whole number of at least 1"):
        small_model.generate(**small_inputs, max_new_tokens=2, num_beams=0)
    small_model.generate(**small_inputs, max_new_tokens=2, num_beams=np.int64(2))


@pytest.mark.parametrize("name", ["decoder_input_ids", "query_ids", "input_ids"])
@pytest.mark.parametrize(
    ("ids", "said"),
    [
        (torch.tensor([[5], [-100], [7]]), "must hold ids of 0..98, but they go from -100 to 7"),
        (torch.tensor([[5], [99], [7]]), "must hold ids of 0..98, but they go from 5 to 99"),
        (torch.tensor([[5.0], [6], [7]]), "must be a tensor of token ids"),
        (torch.tensor([5, 6, 7]), "must be a tensor of token ids"),
        ([[5], [6], [7]], "must be a tensor of token ids"),
    ],
)
def test_ids_that_are_no_tokens_are_refused_by_name(small_model, small_inputs, name, ids, said):
    given = small_inputs | {name: ids}
    if name == "input_ids":
        given.pop("attention_mask")
    with pytest.raises(ValueError, match=f"{name} {said}"):
        small_model.generate(**given, max_new_tokens=2)


def test_an_empty_beginning_is_refused(small_model, small_inputs):
    with pytest.raises(ValueError, match="decoder_input_ids are empty"):
        small_model.generate(**small_inputs, decoder_input_ids=torch.zeros(3, 0, dtype=torch.long))
