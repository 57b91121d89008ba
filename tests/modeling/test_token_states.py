from __future__ import annotations

import functools

import pytest
import torch
from transformers.generation import GenerationMixin
from transformers.generation.streamers import BaseStreamer

from pixelllm_hf.modeling import token_states

MODES = {
    "greedy": {},
    "sampling": {"do_sample": True, "num_return_sequences": 3},
    "beams": {"num_beams": 4, "num_return_sequences": 2},
    "beam sampling": {"num_beams": 3, "do_sample": True},
    "greedy without cache": {"use_cache": False},
    "greedy with a static cache": {"cache_implementation": "static"},
    "beams without cache": {"num_beams": 3, "use_cache": False},
    "reference beams": {"num_beams": 4, "reference_beam_search": True, "num_return_sequences": 2},
    "reference beams, one candidate a beam": {
        "num_beams": 3,
        "reference_beam_search": True,
        "reference_per_node_beam": 1,
    },
    "no repetition": {"no_immediate_repetition": True},
}


def teacher_forced(model, inputs, sequences):
    """Places and log-probabilities of finished sequences from one plain pass without a cache."""
    states, mask = model.encode(**{k: v for k, v in inputs.items() if k != "original_sizes"})
    copies = sequences.shape[0] // states.shape[0]
    decoder_states, _ = model.language_model.decode(
        sequences, states.repeat_interleave(copies, 0), mask.repeat_interleave(copies, 0)
    )
    log_probs = model.language_model.logits(decoder_states).log_softmax(-1)
    chosen = log_probs[:, :-1].gather(-1, sequences[:, 1:, None]).squeeze(-1)
    return model.point_head(decoder_states).coordinates, torch.nn.functional.pad(chosen, (1, 0))


def words_of(sequences):
    """Tokens that are neither BOS, nor EOS or behind it, nor padding at the end; padding's id may stand between."""
    words = ((sequences == 1).cumsum(1) == 0) & ((sequences != 0).flip(1).cumsum(1).flip(1) > 0)
    words[:, 0] = False
    return words


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("ending", ["cut by the limit", "ended by EOS"])
@pytest.mark.parametrize("prompt", ["text of several lengths", "no text"])
@torch.no_grad()
def test_one_pass_places_equal_a_teacher_forced_second_pass(small_model, small_inputs, mode, ending, prompt):
    torch.manual_seed(3)
    if prompt == "no text":
        del small_inputs["input_ids"], small_inputs["attention_mask"]

    def nudge(ids, scores):
        """No EOS among the first three tokens; after them it is likely, or never comes."""
        nudged = scores.clone()
        nudged[:, 1] = -50 if ids.shape[1] < 4 or ending == "cut by the limit" else scores.max(1).values - 1
        return nudged

    out = small_model.generate(**small_inputs, max_new_tokens=9, logits_processor=[nudge], **MODES[mode])
    places, log_probs = teacher_forced(small_model, small_inputs, out.sequences)
    has_location = words_of(out.sequences)
    assert has_location.any()
    assert torch.equal(out.coordinates.isfinite().all(-1).all(-1), has_location)
    torch.testing.assert_close(out.coordinates[has_location], places[has_location], atol=1e-4, rtol=0)
    torch.testing.assert_close(out.token_log_probs[has_location], log_probs[has_location], atol=1e-4, rtol=0)


@pytest.mark.parametrize("mode", [{}, {"num_beams": 3}, {"use_cache": False}], ids=str)
@pytest.mark.parametrize("limit", [1, 3 * 99 * 2, 10**9], ids=["each step", "two steps or more", "all steps"])
@torch.no_grad()
def test_log_probabilities_do_not_depend_on_how_many_are_computed_at_once(
    small_model, small_inputs, monkeypatch, limit, mode
):
    expected = small_model.generate(**small_inputs, max_new_tokens=9, **mode).token_log_probs
    assert expected.isfinite().any()
    monkeypatch.setattr(token_states, "_SCORES_AT_ONCE", limit)
    found = small_model.generate(**small_inputs, max_new_tokens=9, **mode).token_log_probs
    torch.testing.assert_close(found, expected, equal_nan=True)


@pytest.mark.parametrize("mode", MODES)
@torch.no_grad()
def test_a_step_gets_the_inputs_that_transformers_would_give_it(small_model, small_inputs, monkeypatch, mode):
    given = []
    ours = small_model.prepare_inputs_for_generation

    def compared(*args, **kwargs):
        theirs = GenerationMixin.prepare_inputs_for_generation(small_model, *args, **kwargs)
        given.append((ours(*args, **kwargs), theirs))
        return given[-1][0]

    monkeypatch.setattr(small_model, "prepare_inputs_for_generation", compared)
    small_model.generate(**small_inputs, max_new_tokens=4, min_new_tokens=4, **MODES[mode])
    assert len(given) >= 4
    for found, expected in given:
        assert {k for k, v in found.items() if v is not None} == {k for k, v in expected.items() if v is not None}
        tokens = found.pop("decoder_input_ids"), expected.pop("decoder_input_ids")
        assert torch.equal(*tokens) and tokens[0].stride() == tokens[1].stride()
        for name, value in expected.items():
            assert found[name] is value or torch.equal(found[name], value)


@torch.no_grad()
def test_an_answer_does_not_depend_on_its_neighbours(small_model, small_inputs):
    together = small_model.generate(**small_inputs, max_new_tokens=6)
    alone = small_model.generate(
        pixel_values=small_inputs["pixel_values"][1:],
        pixel_mask=small_inputs["pixel_mask"][1:],
        prompt_boxes=small_inputs["prompt_boxes"][1:, :1],
        input_ids=small_inputs["input_ids"][2:, :2],
        attention_mask=small_inputs["attention_mask"][2:, :2],
        max_new_tokens=6,
    )
    assert torch.equal(together.sequences[2:], alone.sequences)
    torch.testing.assert_close(together.coordinates[2:], alone.coordinates, atol=1e-4, rtol=0, equal_nan=True)


@torch.no_grad()
def test_captions_do_depend_on_prompt_and_image(small_model, small_inputs):
    first = small_model.generate(**small_inputs, max_new_tokens=6).coordinates
    moved = {**small_inputs, "prompt_boxes": small_inputs["prompt_boxes"].flip(1), "prompt_mask": None}
    moved["prompt_boxes"][1] = small_inputs["prompt_boxes"][1, 0]
    moved["input_ids"] = moved["attention_mask"] = None
    second = small_model.generate(**moved, max_new_tokens=6).coordinates
    assert not torch.allclose(first[0, 1], second[0, 1])


@torch.no_grad()
def test_the_image_is_encoded_once_for_any_number_of_prompts_and_beams(small_model, small_inputs, monkeypatch):
    calls = []
    original = small_model.vision_towers.forward
    monkeypatch.setattr(
        small_model.vision_towers, "forward", lambda pixels, mask: calls.append(len(pixels)) or original(pixels, mask)
    )
    small_model.generate(**small_inputs, max_new_tokens=5, num_beams=3)
    assert calls == [2]
    features = small_model.get_image_features(small_inputs["pixel_values"], small_inputs["pixel_mask"])
    rest = {k: v for k, v in small_inputs.items() if k != "pixel_values"}
    again = small_model.generate(**rest, image_features=features, max_new_tokens=5)
    assert len(calls) == 2
    assert torch.equal(again.sequences, small_model.generate(**small_inputs, max_new_tokens=5).sequences)


@torch.no_grad()
def test_the_text_prompt_is_not_echoed(small_model, small_inputs):
    out = small_model.generate(**small_inputs, max_new_tokens=5)
    assert out.sequences.shape == (3, 6)
    assert (out.sequences[:, 0] == 0).all()


@torch.no_grad()
def test_encoder_outputs_of_the_caller_are_left_alone(small_model, small_inputs):
    prompt = {k: v for k, v in small_inputs.items() if k != "original_sizes"}
    states, mask = small_model.encode(**prompt)
    out = small_model.generate(encoder_outputs=(states,), attention_mask=mask, max_new_tokens=5)
    assert torch.equal(out.sequences, small_model.generate(**small_inputs, max_new_tokens=5).sequences)


@torch.no_grad()
def test_a_caller_may_ask_for_plain_token_ids(small_model, small_inputs):
    plain = small_model.generate(**small_inputs, max_new_tokens=5, return_dict_in_generate=False)
    assert torch.equal(plain, small_model.generate(**small_inputs, max_new_tokens=5).sequences)


@torch.no_grad()
def test_the_reference_rule_forbids_a_token_to_follow_itself(small_model, small_inputs):
    push = [lambda ids, scores: scores.index_add(1, torch.tensor([7]), torch.full((len(scores), 1), 1e3))]
    free = small_model.generate(**small_inputs, max_new_tokens=6, logits_processor=push).sequences
    assert (free[:, 1:] == 7).all()
    ruled = small_model.generate(
        **small_inputs, max_new_tokens=6, logits_processor=push, no_immediate_repetition=True
    ).sequences
    assert (ruled[:, 2:] != ruled[:, 1:-1]).all()


class Collector(BaseStreamer):
    def __init__(self):
        self.tokens, self.places, self.ended = [], [], False

    def put(self, value):
        self.tokens.append(value)

    def put_location(self, points):
        assert not self.ended
        self.places.append(points)

    def end(self):
        self.ended = True


@torch.no_grad()
def test_a_streamer_is_told_every_place_in_order(small_model, small_inputs):
    one = {k: v[:1] for k, v in small_inputs.items()}
    one["prompt_boxes"], one["prompt_mask"] = one["prompt_boxes"][:, :1], None
    streamer = Collector()
    out = small_model.generate(**one, max_new_tokens=6, streamer=streamer)
    assert streamer.ended
    expected = out.coordinates[0][out.coordinates[0].isfinite().all(-1).all(-1)]
    torch.testing.assert_close(torch.cat(streamer.places), expected, atol=1e-4, rtol=0)


@torch.no_grad()
def test_a_checkpoint_that_searches_with_beams_streams_greedily_unless_beams_are_asked_for(small_model, small_inputs):
    one = {k: v[:1] for k, v in small_inputs.items()}
    one["prompt_boxes"], one["prompt_mask"] = one["prompt_boxes"][:, :1], None
    greedy = small_model.generate(**one, max_new_tokens=6)
    small_model.generation_config.num_beams = 3
    try:
        streamed = small_model.generate(**one, max_new_tokens=6, streamer=Collector())
        with pytest.raises(ValueError, match="beam"):
            small_model.generate(**one, max_new_tokens=6, streamer=Collector(), num_beams=2)
    finally:
        small_model.generation_config.num_beams = 1
    assert torch.equal(streamed.sequences, greedy.sequences)


@torch.no_grad()
def test_a_batch_without_any_prompt_is_refused(small_model, small_inputs):
    with pytest.raises(ValueError, match="at least one valid prompt"):
        small_model.generate(**{**small_inputs, "prompt_mask": torch.zeros(2, 2, dtype=torch.bool)})


@torch.no_grad()
def test_captions_cut_by_the_limit_have_places_under_a_training_librarys_mixed_precision(small_model, small_inputs):
    # accelerate runs `forward` alone in bfloat16, so that keys and values are kept in it, but nothing else is.
    plain = small_model.forward

    @functools.wraps(plain)
    def forward(*args, **kwargs):
        with torch.autocast("cpu", torch.bfloat16):
            return plain(*args, **kwargs)

    small_model.forward = forward
    out = small_model.generate(**small_inputs, max_new_tokens=4, min_new_tokens=4)
    assert out.coordinates[:, 1:].isfinite().all()
