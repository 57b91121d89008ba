"""Answers that begin with given tokens, go on from a cache, stop early or never end: every word has its location."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from transformers import EosTokenCriteria, StoppingCriteria
from transformers.generation.streamers import BaseStreamer

from pixelllm_hf.modeling.configuration_pixelllm import PixelLLMConfig
from pixelllm_hf.modeling.modeling_pixelllm import PixelLLMForGroundedGeneration

BEGINNING = torch.tensor([[0, 12, 7, 33], [0, 40, 41, 42], [0, 9, 80, 6]])
WAYS = {
    "greedy": {},
    "greedy without cache": {"use_cache": False},
    "greedy with a static cache": {"cache_implementation": "static"},
    "sampling": {"do_sample": True, "num_return_sequences": 2},
    "beams": {"num_beams": 3, "num_return_sequences": 2},
    "beam sampling": {"num_beams": 3, "do_sample": True},
    "beams without cache": {"num_beams": 3, "use_cache": False},
    "chunks": {"prompt_chunk_size": 2},
}


@pytest.fixture(params=["t5", "prefix decoder"])
def model(request, small_model) -> PixelLLMForGroundedGeneration:
    if request.param == "t5":
        return small_model
    torch.manual_seed(0)
    text = dict(
        model_type="pixelllm_prefix_decoder",
        vocab_size=99,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        max_position_embeddings=64,
        dropout_rate=0.0,
        bos_token_id=0,
        decoder_start_token_id=0,
        eos_token_id=1,
    )
    model = PixelLLMForGroundedGeneration(PixelLLMConfig.for_tests(text_config=text, mask_head_config=None)).eval()
    model.language_model.lm_head.weight.data.mul_(3)
    return model


def is_word(sequences: torch.Tensor, ended_by: int | None = 1) -> torch.Tensor:
    words = (sequences != 0).flip(1).cumsum(1).flip(1) > 0
    if ended_by is not None:
        words &= (sequences == ended_by).cumsum(1) == 0
    words[:, 0] = False
    return words


def assert_as_teacher_forced(model, inputs, out, ended_by: int | None = 1) -> None:
    """Locations and log-probabilities are those of one plain pass over the finished sequences."""
    states, mask = model.encode(**{name: value for name, value in inputs.items() if name != "original_sizes"})
    copies = len(out.sequences) // len(states)
    read, _ = model.language_model.decode(
        out.sequences, states.repeat_interleave(copies, 0), mask.repeat_interleave(copies, 0)
    )
    log_probs = model.language_model.logits(read).log_softmax(-1)[:, :-1].gather(-1, out.sequences[:, 1:, None])
    log_probs = torch.nn.functional.pad(log_probs.squeeze(-1), (1, 0))
    words = is_word(out.sequences, ended_by)
    assert torch.equal(out.coordinates.isfinite().all(-1).all(-1), words)
    points = model.point_head(read).coordinates
    torch.testing.assert_close(out.coordinates[words], points[words], atol=1e-4, rtol=0)
    torch.testing.assert_close(out.token_log_probs[words], log_probs[words], atol=1e-4, rtol=0)


@pytest.mark.parametrize("bos", ["with BOS", "without BOS"])
@pytest.mark.parametrize("way", WAYS)
@torch.no_grad()
def test_given_and_written_words_have_the_locations_of_a_teacher_forced_pass(model, small_inputs, way, bos):
    torch.manual_seed(2)
    beginning = BEGINNING if bos == "with BOS" else BEGINNING[:, 1:]
    out = model.generate(**small_inputs, decoder_input_ids=beginning, max_new_tokens=5, **WAYS[way])
    copies = len(out.sequences) // 3
    assert torch.equal(out.sequences[:, :4], BEGINNING.repeat_interleave(copies, 0)) and out.sequences.shape[1] > 5
    assert_as_teacher_forced(model, small_inputs, out)


@pytest.mark.parametrize("steps", [1, 3])
@torch.no_grad()
def test_the_cache_that_comes_back_can_be_gone_on_from(model, small_inputs, steps):
    whole = model.generate(**small_inputs, suppress_tokens=[1], max_new_tokens=7)
    first = model.generate(**small_inputs, suppress_tokens=[1], max_new_tokens=steps)
    assert int(first.cache.get_seq_length()) == first.sequences.shape[1] - 1
    rest = model.generate(
        **small_inputs,
        suppress_tokens=[1],
        cache=first.cache,
        decoder_input_ids=first.sequences,
        max_new_tokens=7 - steps,
    )
    assert torch.equal(rest.sequences, whole.sequences)
    torch.testing.assert_close(rest.coordinates, whole.coordinates, atol=1e-4, rtol=0, equal_nan=True)
    torch.testing.assert_close(rest.token_log_probs, whole.token_log_probs, atol=1e-4, rtol=0, equal_nan=True)
    assert int(rest.cache.get_seq_length()) == rest.sequences.shape[1] - 1


@torch.no_grad()
def test_what_cannot_be_gone_on_from_is_refused(model, small_inputs):
    first = model.generate(**small_inputs, suppress_tokens=[1], max_new_tokens=3)
    again = {"cache": first.cache, "max_new_tokens": 2}
    with pytest.raises(ValueError, match="has consumed 3 tokens.*but they are 0"):
        model.generate(**small_inputs, **again)
    with pytest.raises(ValueError, match="has consumed 3 tokens.*but they are 3"):
        model.generate(**small_inputs, **again, decoder_input_ids=first.sequences[:, :3])
    with pytest.raises(ValueError, match="that of 3 sequences, but 6 are to be written"):
        model.generate(**small_inputs, **again, decoder_input_ids=first.sequences, num_beams=2)
    with pytest.raises(ValueError, match="a cache belongs to one chunk"):
        model.generate(**small_inputs, **again, decoder_input_ids=first.sequences, prompt_chunk_size=2)
    with pytest.raises(ValueError, match="begin with BOS"):
        model.generate(**small_inputs, decoder_input_ids=torch.tensor([[0, 4], [4, 5], [0, 6]]))
    with pytest.raises(ValueError, match="decoder_input_ids must have one row per valid prompt.*3 prompts and 2 rows"):
        model.generate(**small_inputs, decoder_input_ids=BEGINNING[:2])
    with pytest.raises(ValueError, match="decoder_attention_mask leaves positions out"):
        mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 1, 1]])
        model.generate(**small_inputs, decoder_input_ids=BEGINNING, decoder_attention_mask=mask)
    with pytest.raises(ValueError, match="query_ids are whole answers"):
        model.generate(**small_inputs, query_ids=BEGINNING[:, 1:], decoder_input_ids=BEGINNING)
    with pytest.raises(ValueError, match="reference_beam_search begins with BOS"):
        model.generate(**small_inputs, decoder_input_ids=BEGINNING, reference_beam_search=True, num_beams=2)


@torch.no_grad()
def test_a_mask_that_leaves_nothing_out_changes_nothing(model, small_inputs):
    plain = model.generate(**small_inputs, decoder_input_ids=BEGINNING, max_new_tokens=4)
    masked = model.generate(
        **small_inputs, decoder_input_ids=BEGINNING, decoder_attention_mask=torch.ones(3, 4), max_new_tokens=4
    )
    assert torch.equal(masked.sequences, plain.sequences)
    torch.testing.assert_close(masked.coordinates, plain.coordinates, equal_nan=True)


@pytest.mark.parametrize("way", ["greedy", "greedy without cache", "sampling", "beams"])
@torch.no_grad()
def test_without_an_end_token_all_words_have_locations_and_no_answer_a_box(model, small_inputs, way):
    model.config.text_config.eos_token_id = model.generation_config.eos_token_id = None
    out = model.generate(**small_inputs, max_new_tokens=5, output_boxes=True, **WAYS[way])
    assert out.sequences.shape[1] == 6
    assert_as_teacher_forced(model, small_inputs, out, ended_by=None)
    assert out.boxes.isnan().all()


@torch.no_grad()
def test_a_row_that_a_criterion_stops_has_no_locations_in_its_padding(model, small_inputs):
    class StopFirst(StoppingCriteria):
        def __call__(self, ids, scores, **given):
            return torch.tensor([ids.shape[1] >= 4, False, False])

    out = model.generate(
        **small_inputs,
        suppress_tokens=[1],
        max_new_tokens=6,
        stopping_criteria=[StopFirst(), EosTokenCriteria(1)][:1],
    )
    assert out.sequences[0, 4:].eq(0).all()
    assert_as_teacher_forced(model, small_inputs, out)


class Places(BaseStreamer):
    def __init__(self):
        self.tokens, self.places = [], []

    def put(self, value):
        self.tokens.append(value)

    def put_location(self, points):
        self.places.append(points)

    def end(self):
        pass


@torch.no_grad()
def test_a_streamer_gets_the_locations_of_the_written_words_alone(model, small_inputs):
    streamer = Places()
    out = model.generate(
        **small_inputs, decoder_input_ids=BEGINNING, suppress_tokens=[1], max_new_tokens=4, streamer=streamer
    )
    assert len(streamer.tokens) == 5 and len(streamer.places) == 4
    torch.testing.assert_close(torch.stack(streamer.places, dim=1), out.coordinates[:, 4:], atol=1e-4, rtol=0)


@torch.no_grad()
def test_masks_belong_to_answers_with_a_given_beginning(small_model, small_inputs):
    push = [lambda ids, scores: scores.index_add(1, torch.tensor([1]), torch.full((len(scores), 1), 30.0))]
    out = small_model.generate(
        **small_inputs, decoder_input_ids=BEGINNING, max_new_tokens=3, logits_processor=push, output_masks=True
    )
    again = small_model.generate(**small_inputs, query_ids=out.sequences[:, 1:], output_masks=True)
    torch.testing.assert_close(again.boxes, out.boxes, atol=1e-4, rtol=0)
    torch.testing.assert_close(again.masks, out.masks, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("ends", [None, [1, 5]], ids=str)
@torch.no_grad()
def test_masks_and_losses_take_any_number_of_end_tokens(small_model, small_inputs, ends):
    small_model.config.text_config.eos_token_id = small_model.generation_config.eos_token_id = ends
    labels = torch.tensor([[12, 7, 5], [40, 1, -100], [9, -100, -100]])
    sides = torch.zeros(3, 64, 64)
    sides[:, 10:30, 10:30] = 1
    out = small_model(**small_inputs, labels=labels, mask_labels=sides)
    assert out.loss.isfinite() and (out.loss_parts["mask"] > 0) == (ends is not None)
    written = small_model.generate(**small_inputs, query_ids=labels.clamp(min=0), output_masks=True)
    assert written.boxes.isfinite().all(-1).tolist() == ([True, True, False] if ends else [False] * 3)
    with pytest.raises(ValueError, match="needs an end token") if ends is None else nullcontext():
        small_model.generate(**small_inputs, reference_beam_search=True, num_beams=2, max_new_tokens=3)


@torch.no_grad()
def test_any_of_several_end_tokens_ends_a_beam_of_the_reference(small_model, small_inputs):
    push = [lambda ids, scores: scores.index_add(1, torch.tensor([5]), torch.full((len(scores), 1), 30.0))]
    options = {"num_beams": 2, "max_new_tokens": 6, "logits_processor": push, "eos_token_id": [1, 5]}
    out = small_model.generate(**small_inputs, reference_beam_search=True, **options)
    assert (out.sequences == 5).sum(1).eq(1).all() and out.sequences.shape[1] < 7
    assert torch.equal(is_word(out.sequences, 5), out.coordinates.isfinite().all(-1).all(-1))
