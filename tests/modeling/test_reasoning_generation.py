from __future__ import annotations

import pytest
import torch

from pixelllm_hf.modeling.configuration_pixellm import PixelLMConfig
from pixelllm_hf.modeling.decoding_rules import CompleteTokenGroups
from pixelllm_hf.modeling.modeling_pixellm import PixelLMForReasoningSegmentation
from pixelllm_hf.modeling.reasoning_generation import padded_on_the_left

GROUP = [40, 41, 42, 43]


@pytest.fixture(scope="module")
def model() -> PixelLMForReasoningSegmentation:
    """It likes to begin targets."""
    torch.manual_seed(3)
    model = PixelLMForReasoningSegmentation(PixelLMConfig.for_tests()).eval()
    with torch.no_grad():
        model.get_output_embeddings().weight[40] *= 4
    return model


def ask(*lengths: int, images: int | None = None) -> dict[str, torch.Tensor]:
    """A question of each length, padded on the right."""
    generator = torch.Generator().manual_seed(2)
    rows = [[1, *[47] * 16, *range(5, 5 + length)] for length in lengths]
    ids = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long)
    for target, row in zip(ids, rows, strict=True):
        target[: len(row)] = torch.tensor(row)
    count = len(rows) if images is None else images
    pixel_mask = torch.ones(count, 64, 64, dtype=torch.bool)
    pixel_mask[:, 40:] = False
    return {
        "pixel_values": torch.rand(count, 3, 64, 64, generator=generator) * 255,
        "pixel_mask": pixel_mask,
        "input_ids": ids,
        "attention_mask": (ids != 0).long(),
    }


def read_again(model, inputs, output):
    """Masks and log-probabilities of one teacher-forced pass over questions and answers."""
    ids, mask = padded_on_the_left(inputs["input_ids"], inputs["attention_mask"])
    copies = len(output.sequences) // len(ids)
    whole = torch.cat([ids.repeat_interleave(copies, 0), output.sequences], dim=1)
    seen = torch.cat([mask.repeat_interleave(copies, 0), torch.ones_like(output.sequences)], dim=1)
    features = model.get_image_features(inputs["pixel_values"], inputs["pixel_mask"])
    of_row = model.image_of_row(inputs.get("prompt_mask"), len(inputs["pixel_values"]), len(ids))
    with torch.no_grad():
        return model(
            input_ids=whole,
            attention_mask=seen,
            image_features=features,
            image_of_row=of_row.repeat_interleave(copies),
        )


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"use_cache": False},
        {"num_beams": 3},
        {"num_beams": 3, "num_return_sequences": 2, "early_stopping": True},
        {"do_sample": True, "num_return_sequences": 2},
    ],
    ids=["greedy", "no cache", "beams", "several beams", "samples"],
)
def test_masks_are_those_of_a_second_teacher_forced_pass(model, options):
    torch.manual_seed(0)
    inputs = ask(2, 5)
    output = model.generate(**inputs, max_new_tokens=14, eos_token_id=None, **options)
    again = read_again(model, inputs, output)
    assert len(output.mask_logits) > 0
    assert output.row_of_target.tolist() == again.row_of_target.tolist()
    torch.testing.assert_close(output.mask_logits, again.mask_logits, rtol=1e-3, atol=1e-4)
    logits = again.logits[:, -output.sequences.shape[1] - 1 : -1].log_softmax(-1)
    chosen = logits.gather(2, output.sequences[..., None])[..., 0]
    torch.testing.assert_close(output.token_log_probs, chosen, rtol=1e-3, atol=1e-4)


def test_a_target_that_is_begun_is_written_whole(model):
    output = model.generate(**ask(3), max_new_tokens=12)
    ids = output.sequences[0].tolist()
    for place, token in enumerate(ids[:-1]):
        if token in GROUP[:-1]:
            assert ids[place + 1] == token + 1
        elif ids[place + 1] in GROUP:
            assert ids[place + 1] == 40


def test_no_token_of_a_group_comes_out_of_turn():
    scores = torch.zeros(2, 48)
    allowed = CompleteTokenGroups(GROUP)(torch.tensor([[5], [41]]), scores).isfinite()
    assert allowed[0].nonzero().flatten().tolist() == [i for i in range(48) if i not in (41, 42, 43)]
    assert allowed[1].nonzero().flatten().tolist() == [42]


def test_a_target_that_the_length_limit_cuts_marks_its_answer_and_no_other(model):
    free = model.generate(**ask(2, 5), max_new_tokens=14, eos_token_id=None)
    row, length = int(free.row_of_target[0]), int(free.target_positions[0, 0]) + 2
    cut = model.generate(**ask(2, 5), max_new_tokens=length, eos_token_id=None)
    assert cut.incomplete[row] and row not in cut.row_of_target.tolist()
    torch.testing.assert_close(cut.sequences, free.sequences[:, :length])


def test_an_answer_does_not_depend_on_its_neighbours_or_on_the_side_of_the_padding(model):
    inputs = ask(2, 6)
    together = model.generate(**inputs, max_new_tokens=10, eos_token_id=None)
    alone = model.generate(
        pixel_values=inputs["pixel_values"][:1],
        pixel_mask=inputs["pixel_mask"][:1],
        input_ids=inputs["input_ids"][:1, :19],
        max_new_tokens=10,
        eos_token_id=None,
    )
    assert together.sequences[0].tolist() == alone.sequences[0].tolist()
    own = together.row_of_target == 0
    torch.testing.assert_close(together.mask_logits[own], alone.mask_logits, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("beams", [1, 3])
def test_behind_its_end_an_answer_has_padding_whatever_searches(model, beams):
    for end in range(2, 40):  # a word that ends one answer before the other
        output = model.generate(**ask(2, 5), max_new_tokens=10, num_beams=beams, eos_token_id=end, pad_token_id=0)
        ends = output.sequences == end
        if (behind := ends.cumsum(1) > ends.int()).any():
            break
    assert behind.any() and not behind.all()
    assert (output.sequences[behind] == 0).all()


def test_several_questions_about_one_image_are_answered_as_alone(model):
    inputs = ask(2, 5, images=1)
    output = model.generate(**inputs, prompt_mask=torch.tensor([[True, True]]), max_new_tokens=8, eos_token_id=None)
    for row, length in enumerate((19, 22)):
        single = dict(inputs, input_ids=inputs["input_ids"][row : row + 1, :length], attention_mask=None)
        assert model.generate(**single, max_new_tokens=8, eos_token_id=None).sequences.tolist() == [
            output.sequences[row].tolist()
        ]


def test_targets_are_decoded_in_chunks_that_change_nothing(model, monkeypatch):
    inputs = ask(2, 5)
    whole = model.generate(**inputs, max_new_tokens=14, eos_token_id=None)
    monkeypatch.setattr("pixelllm_hf.modeling.target_masks.TARGET_CHUNK_SIZE", 1)
    chunked = model.generate(**inputs, max_new_tokens=14, eos_token_id=None)
    torch.testing.assert_close(chunked.mask_logits, whole.mask_logits, rtol=1e-4, atol=1e-5)


def test_an_answer_without_a_target_has_no_mask(model):
    output = model.generate(**ask(2), max_new_tokens=3, suppress_tokens=GROUP)
    assert output.mask_logits.shape[0] == 0 and output.row_of_target.tolist() == []


def test_a_seq2seq_trainer_gets_its_plain_tensor(model):
    assert isinstance(model.generate(**ask(2), max_new_tokens=3, return_dict_in_generate=False), torch.Tensor)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input_ids": None}, "expected input_ids"),
        ({"pixel_values": None}, "pixel_values or image_features"),
        ({"prompt_lookup_num_tokens": 3}, "prompt_lookup_num_tokens"),
        ({"pixel_values": torch.zeros(1, 3, 32, 32)}, r"\(images, 3, 64, 64\)"),
    ],
)
def test_what_cannot_be_answered_says_why(model, change, message):
    with pytest.raises(ValueError, match=message):
        model.generate(**(ask(2) | change))


def test_an_answer_ends_where_the_language_model_has_no_position_left(model):
    short = PixelLMForReasoningSegmentation(PixelLMConfig.for_tests()).eval()
    short.load_state_dict(model.state_dict())
    short.config.text_config.max_position_embeddings = 25
    output = short.generate(**ask(2, 4), max_new_tokens=14, eos_token_id=None)
    whole = model.generate(**ask(2, 4), max_new_tokens=14, eos_token_id=None)
    assert output.sequences.shape[1] == 25 - 21  # of the longer question: BOS, 16 of the image and 4
    assert output.sequences.tolist() == whole.sequences[:, :4].tolist()
    with pytest.raises(ValueError, match="has 26 tokens.*reads 25 in all"):
        short.generate(**ask(2, 9), max_new_tokens=4)


def test_what_callers_suppress_stays_suppressed(model):
    free = model.generate(**ask(2), max_new_tokens=6, eos_token_id=None).sequences[0].tolist()
    output = model.generate(**ask(2), max_new_tokens=6, eos_token_id=None, suppress_tokens=[free[0]])
    assert free[0] not in output.sequences[0].tolist() and 47 not in output.sequences[0].tolist()


@pytest.mark.parametrize("name", ["output_scores", "output_logits", "output_attentions", "output_hidden_states"])
def test_outputs_of_each_step_are_refused_by_name(model, name):
    with pytest.raises(ValueError, match=f"{name}: a PixelLM's answer has no outputs of each step"):
        model.generate(**ask(2), max_new_tokens=2, **{name: True})


@pytest.mark.parametrize("beams", [0, 1.5])
def test_beams_that_cannot_be_are_refused(model, beams):
    with pytest.raises(ValueError, match="num_beams must be a whole number of at least 1"):
        model.generate(**ask(2), max_new_tokens=2, num_beams=beams)


def test_how_sure_a_mask_is_does_not_count_the_padding(model):
    output = model.generate(**ask(2, 5), max_new_tokens=14, eos_token_id=None)
    cells = round(40 / 64 * output.mask_logits.shape[-1])
    assert (output.mask_logits[:, cells:] > 0).any()
    for logits, score in zip(output.mask_logits[:, :cells], output.mask_scores, strict=True):
        inside = logits[logits > 0]
        expected = inside.sigmoid().mean() if len(inside) else torch.zeros(())
        torch.testing.assert_close(score, expected, rtol=1e-4, atol=1e-4)


def circle(*tokens: int):
    """What pushes answers to questions of 21 tokens to say these again and again."""

    def push(ids, scores):
        scores = torch.full_like(scores, -20.0)
        scores[:, tokens[(ids.shape[1] - 21) % len(tokens)]] = 0.0
        return scores

    return [push]


@pytest.mark.parametrize(
    ("said", "option", "length"),
    [((7, 8), "max_repeated_tokens", 2 + 6), ((7, *GROUP), "max_repeated_targets", 5 * 7)],
)
def test_an_answer_that_goes_round_in_circles_ends(model, said, option, length):
    settings = {"logits_processor": circle(*said), "max_new_tokens": 45, "eos_token_id": 2, "pad_token_id": 0}
    inputs = ask(2, 4)
    assert (model.generate(**inputs, **settings).sequences != 0).all()
    output = model.generate(**inputs, **settings, **{option: 6})
    assert (output.sequences[:, length] == 2).all() and output.sequences.shape[1] == length + 1


def test_options_of_our_own_stay_in_the_generation_config_of_a_saved_pixellm(model, tmp_path):
    model.save_pretrained(tmp_path)
    loaded = PixelLMForReasoningSegmentation.from_pretrained(tmp_path).eval()
    loaded.generation_config.max_repeated_tokens = 6
    loaded.save_pretrained(tmp_path)
    loaded = PixelLMForReasoningSegmentation.from_pretrained(tmp_path).eval()
    settings = {"logits_processor": circle(7, 8), "max_new_tokens": 30, "eos_token_id": 2}
    assert loaded.generate(**ask(4), **settings).sequences.shape[1] == 2 + 6 + 1
    assert loaded.generate(**ask(4), **settings, max_repeated_tokens=0).sequences.shape[1] == 30


@pytest.mark.parametrize("name", ["max_repeated_tokens", "max_repeated_targets"])
def test_a_number_of_repetitions_that_cannot_be_is_refused(model, name):
    with pytest.raises(ValueError, match=f"{name} must be a whole number of at least 0"):
        model.generate(**ask(2), max_new_tokens=2, **{name: -1})


def test_a_mask_of_another_shape_than_the_questions_is_refused(model):
    inputs = ask(2, 4)
    for call in (model, model.generate):
        with pytest.raises(ValueError, match="attention_mask must have the shape of input_ids"):
            call(**inputs | {"attention_mask": inputs["attention_mask"][:, :-1]})
