"""Boxes, masks and detections of `generate()`."""

from __future__ import annotations

import pytest
import torch

from pixelllm_hf.modeling.box_coding import pairwise_iou
from pixelllm_hf.modeling.configuration_pixelllm import PixelLLMConfig
from pixelllm_hf.modeling.modeling_pixelllm import PixelLLMForGroundedGeneration

QUERIES = torch.tensor([[5, 6, 7, 1], [9, 8, 1, 0], [1, 0, 0, 0]])  # the last expression is empty
GIVEN = torch.tensor([[5, 6, 7, 1], [9, 8, 1, 0], [12, 1, 0, 0]])


@pytest.fixture
def model(small_model) -> PixelLLMForGroundedGeneration:
    """Its masks listen to the text, and it finds several things in any image."""
    with torch.no_grad():
        small_model.mask_head.adapter.alpha.normal_()
        generator = small_model.proposal_head.proposal_generator
        generator.bbox_pred.bias.fill_(1.5)
        generator.agn_hm.weight.mul_(60)
        generator.agn_hm.bias.fill_(-1.0)
    return small_model


@pytest.fixture
def images(small_inputs) -> dict[str, torch.Tensor]:
    """Two images and one row of text for each."""
    named = {name: small_inputs[name] for name in ("pixel_values", "pixel_mask")}
    return named | {name: small_inputs[name][:2] for name in ("input_ids", "attention_mask")}


def row_of(inputs: dict[str, torch.Tensor], row: int) -> dict[str, torch.Tensor]:
    """One prompt of the inputs alone, its text no longer than it needs to be."""
    image, prompt = [(0, 0), (0, 1), (1, 0)][row]
    length = int(inputs["attention_mask"][row].sum())
    return {
        "pixel_values": inputs["pixel_values"][image : image + 1],
        "pixel_mask": inputs["pixel_mask"][image : image + 1],
        "prompt_boxes": inputs["prompt_boxes"][image : image + 1, prompt : prompt + 1],
        "input_ids": inputs["input_ids"][row : row + 1, :length],
        "attention_mask": inputs["attention_mask"][row : row + 1, :length],
    }


def assert_same(ours, theirs, *names, atol=1e-4):
    for name in names:
        torch.testing.assert_close(ours[name], theirs[name], atol=atol, rtol=0, equal_nan=True, msg=name)


# --- given answers ----------------------------------------------------------------------------------------------


@torch.no_grad()
def test_places_of_a_given_answer_equal_those_of_a_teacher_forced_forward(model, small_inputs):
    out = model.generate(**small_inputs, query_ids=GIVEN)
    assert torch.equal(out.sequences, torch.nn.functional.pad(GIVEN, (1, 0)))
    forced = model(**small_inputs, labels=GIVEN.masked_fill(GIVEN == 0, -100))
    is_word = torch.tensor([[0, 1, 1, 1, 0], [0, 1, 1, 0, 0], [0, 1, 0, 0, 0]], dtype=torch.bool)
    assert torch.equal(out.coordinates.isfinite().all(-1).all(-1), is_word)
    torch.testing.assert_close(out.coordinates[is_word], forced.coordinates[is_word], atol=1e-5, rtol=0)
    log_probs = forced.logits.log_softmax(-1)[:, :-1].gather(-1, GIVEN[..., None]).squeeze(-1)
    torch.testing.assert_close(out.token_log_probs[:, 1:][is_word[:, 1:]], log_probs[is_word[:, 1:]])


@torch.no_grad()
def test_the_box_is_that_of_the_last_word_and_an_empty_expression_has_none(model, small_inputs):
    out = model.generate(**small_inputs, query_ids=QUERIES)
    for row, last in ((0, 3), (1, 2)):
        points = out.coordinates[row, last]
        torch.testing.assert_close(out.boxes[row], torch.cat([points.amin(0), points.amax(0)]))
    assert out.boxes[2].isnan().all()


@torch.no_grad()
def test_a_written_answer_given_again_has_the_same_places(model, small_inputs):
    written = model.generate(**small_inputs, max_new_tokens=5, output_boxes=True, num_beams=2)
    again = model.generate(**small_inputs, query_ids=written.sequences[:, 1:])
    assert_same(again, written, "coordinates", "token_log_probs", "boxes")


@torch.no_grad()
def test_plain_captions_carry_neither_boxes_nor_masks(model, small_inputs):
    out = model.generate(**small_inputs, max_new_tokens=4)
    assert not {"boxes", "masks", "mask_scores", "prompt_boxes", "detection_scores"} & set(out)


@torch.no_grad()
def test_expressions_must_match_the_prompts(model, small_inputs):
    with pytest.raises(ValueError, match="query_ids must have one row per valid prompt.*3 prompts and 2 rows"):
        model.generate(**small_inputs, query_ids=QUERIES[:2])


# --- masks ------------------------------------------------------------------------------------------------------

WAYS = {"given": {"query_ids": GIVEN}, "greedy": {"max_new_tokens": 5}, "beams": {"max_new_tokens": 5, "num_beams": 3}}


@pytest.mark.parametrize("way", WAYS)
@torch.no_grad()
def test_a_mask_is_that_of_the_last_words_box_and_the_states_of_a_second_pass(model, small_inputs, way):
    out = model.generate(**small_inputs, **WAYS[way], output_masks=torch.tensor(True))
    assert out.masks.shape == (3, 16, 16) and out.masks.dtype == torch.float32
    tokens = torch.nn.functional.pad(out.sequences, (0, 12 - out.sequences.shape[1]))
    ids, mask = (torch.nn.functional.pad(small_inputs[name], (0, 7)) for name in ("input_ids", "attention_mask"))
    takes_part = ((tokens == 1).cumsum(1) == 0) & (tokens != 0)
    takes_part[:, 0] = True
    second = model(
        **{**small_inputs, "input_ids": ids, "attention_mask": mask},
        decoder_input_ids=tokens,
        decoder_attention_mask=takes_part,
    )
    features = model.get_image_features(small_inputs["pixel_values"], small_inputs["pixel_mask"])
    places = {name: small_inputs[name] for name in ("prompt_boxes", "prompt_mask")}
    visual = model.get_visual_tokens(features, **places)
    ended = out.boxes.isfinite().all(-1)
    sizes = torch.tensor([[64.0, 64, 64, 64], [64, 64, 64, 64], [64, 40, 64, 40]])
    boxes = out.boxes.nan_to_num(0.0) * sizes
    masks, iou_predictions = model.predict_masks(
        features, visual, second.decoder_states, boxes, torch.tensor([0, 0, 1])
    ).best()
    torch.testing.assert_close(out.masks[ended], masks[ended], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(out.mask_scores[ended], iou_predictions[ended], atol=1e-4, rtol=1e-4)
    assert out.masks[~ended].isnan().all()


@torch.no_grad()
def test_a_mask_depends_on_neither_neighbours_nor_padding(model, small_inputs):
    together = model.generate(**small_inputs, query_ids=GIVEN, output_masks=True)
    for row, length in ((1, 3), (2, 2)):
        alone = model.generate(**row_of(small_inputs, row), query_ids=GIVEN[row : row + 1, :length], output_masks=True)
        for name in ("boxes", "masks", "mask_scores"):
            torch.testing.assert_close(alone[name][0], together[name][row], atol=1e-4, rtol=1e-4, msg=name)


@torch.no_grad()
def test_masks_follow_their_prompts_when_these_change_places(model, small_inputs):
    first = model.generate(**small_inputs, query_ids=GIVEN, output_masks=True)
    order = torch.tensor([1, 0, 2])
    swapped = dict(small_inputs)
    swapped["prompt_boxes"] = small_inputs["prompt_boxes"].clone()
    swapped["prompt_boxes"][0] = small_inputs["prompt_boxes"][0].flip(0)
    for name in ("input_ids", "attention_mask"):
        swapped[name] = small_inputs[name][order]
    second = model.generate(**swapped, query_ids=GIVEN[order], output_masks=True)
    for name in ("boxes", "masks", "mask_scores"):
        torch.testing.assert_close(second[name], first[name][order], atol=1e-4, rtol=1e-4, msg=name)


@torch.no_grad()
def test_an_answer_without_a_box_has_no_mask(model, small_inputs):
    out = model.generate(**small_inputs, query_ids=QUERIES, output_masks=True)
    assert out.masks[:2].isfinite().all()
    assert out.masks[2].isnan().all() and out.mask_scores[2].isnan()


@torch.no_grad()
def test_every_returned_sequence_has_its_mask(model, small_inputs):
    push = [lambda ids, scores: scores.index_add(1, torch.tensor([1]), torch.full((len(scores), 1), 3.0))]
    options = {"num_beams": 3, "num_return_sequences": 2, "max_new_tokens": 5, "logits_processor": push}
    out = model.generate(**small_inputs, **options, output_masks=True)
    assert out.masks.shape == (6, 16, 16) and out.boxes.shape == (6, 4)
    again = model.generate(**row_of(small_inputs, 1), query_ids=out.sequences[3:4, 1:], output_masks=True)
    torch.testing.assert_close(again.masks[0], out.masks[3], atol=1e-4, rtol=1e-4, equal_nan=True)


# --- chunks ---------------------------------------------------------------------------------------------------

PORTIONED = {
    "captions": {"max_new_tokens": 5},
    "beams": {"max_new_tokens": 5, "num_beams": 2, "num_return_sequences": 2},
    "masks": {"query_ids": GIVEN, "output_masks": True},
}


@pytest.mark.parametrize("way", PORTIONED)
@torch.no_grad()
def test_portions_of_prompts_give_the_same_answers(model, small_inputs, way):
    whole = model.generate(**small_inputs, **PORTIONED[way])
    for size in (1, 2):
        parts = model.generate(**small_inputs, **PORTIONED[way], prompt_chunk_size=size)
        assert torch.equal(parts.sequences, whole.sequences)
        names = [n for n in ("coordinates", "token_log_probs", "boxes", "masks", "mask_scores") if n in whole]
        assert_same(parts, whole, *names)


@pytest.mark.parametrize(
    "search", [{"num_beams": 3}, {"num_beams": 3, "reference_beam_search": True}, {"num_beams": 1}]
)
@torch.no_grad()
def test_behind_its_end_a_row_has_padding_whatever_searches(model, small_inputs, search):
    assert model.config.pad_token_id == 0
    for end in range(2, 99):  # a word that ends some rows earlier than others
        options = {"max_new_tokens": 6, "eos_token_id": end, **search}
        whole = model.generate(**small_inputs, **options)
        ends = whole.sequences == end
        if (behind := ends.cumsum(1) > ends.int()).any():
            break
    assert behind.any() and not behind.all()
    assert (whole.sequences[behind] == 0).all()
    parts = model.generate(**small_inputs, **options, prompt_chunk_size=1)
    assert torch.equal(parts.sequences, whole.sequences)
    assert_same(parts, whole, "coordinates", "token_log_probs")


@torch.no_grad()
def test_portions_of_encoded_prompts_give_the_same_answers(model, small_inputs):
    prompt = {name: value for name, value in small_inputs.items() if name != "original_sizes"}
    states, mask = model.encode(**prompt)
    whole = model.generate(**small_inputs, max_new_tokens=5)
    parts = model.generate(encoder_outputs=(states,), attention_mask=mask, max_new_tokens=5, prompt_chunk_size=2)
    assert torch.equal(parts.sequences, whole.sequences)


@torch.no_grad()
def test_no_more_prompts_are_encoded_at_once_than_allowed(model, small_inputs, monkeypatch):
    sizes = []
    encode = model.language_model.encode
    monkeypatch.setattr(
        model.language_model, "encode", lambda x, *rest, **o: sizes.append(len(x)) or encode(x, *rest, **o)
    )
    model.generate(**small_inputs, max_new_tokens=3, prompt_chunk_size=2)
    assert sizes == [2, 1]


@torch.no_grad()
def test_what_belongs_to_one_portion_cannot_be_asked_of_several(model, small_inputs):
    with pytest.raises(ValueError, match="output_scores can follow one chunk.*Raise prompt_chunk_size"):
        model.generate(**small_inputs, max_new_tokens=3, prompt_chunk_size=2, output_scores=True)
    with pytest.raises(ValueError, match="prompt_chunk_size must be a whole number of at least 1"):
        model.generate(**small_inputs, max_new_tokens=3, prompt_chunk_size=0)


# --- detections -------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_objects_are_found_and_each_has_its_caption(model, images):
    out = model.generate(**images, detect_objects=torch.tensor(True), max_new_tokens=5)
    number = out.prompt_mask.sum(1)
    assert (number > 1).all() and len(out.sequences) == number.sum()
    assert out.prompt_boxes.shape == (*out.prompt_mask.shape, 4)
    assert (out.detection_scores[:, 1:] <= out.detection_scores[:, :-1]).all()
    assert torch.equal(out.detection_scores > 0, out.prompt_mask)
    # The same boxes as prompts of the user's have the same captions.
    of_image = out.prompt_mask.nonzero()[:, 0]
    text = {name: images[name][of_image] for name in ("input_ids", "attention_mask")}
    prompts = {"prompt_boxes": out.prompt_boxes, "prompt_mask": out.prompt_mask}
    again = model.generate(**{**images, **text}, **prompts, max_new_tokens=5)
    assert torch.equal(again.sequences, out.sequences)
    assert_same(again, out, "coordinates")


@torch.no_grad()
def test_detections_of_an_image_do_not_depend_on_its_neighbours(model, images):
    together = model.generate(**images, detect_objects=True, max_new_tokens=4)
    alone = model.generate(**{name: value[1:] for name, value in images.items()}, detect_objects=True, max_new_tokens=4)
    number = int(alone.prompt_mask.sum())
    torch.testing.assert_close(together.prompt_boxes[1, :number], alone.prompt_boxes[0], atol=1e-3, rtol=0)
    torch.testing.assert_close(together.detection_scores[1, :number], alone.detection_scores[0])
    assert torch.equal(together.sequences[-number:], alone.sequences)


@torch.no_grad()
def test_an_image_without_objects_gives_an_empty_answer(model, images):
    model.proposal_head.config.detection_score_threshold = 1.0
    out = model.generate(**images, detect_objects=True, output_masks=True, num_beams=2)
    assert out.sequences.shape == (0, 1) and out.coordinates.shape == (0, 1, 2, 2)
    assert out.token_log_probs.shape == (0, 1) and out.boxes.shape == (0, 4) and out.masks.shape == (0, 16, 16)
    assert out.prompt_boxes.shape == (2, 0, 4) and out.prompt_mask.shape == out.detection_scores.shape == (2, 0)


@torch.no_grad()
def test_an_empty_image_beside_a_full_one_takes_no_row(model, images):
    full = model.generate(**images, detect_objects=True, max_new_tokens=4)
    scores = full.detection_scores[:, 0]
    empty = int(scores.argmin())
    model.proposal_head.config.detection_score_threshold = float(scores.mean())
    out = model.generate(**images, detect_objects=True, max_new_tokens=4)
    assert not out.prompt_mask[empty].any() and out.prompt_mask[1 - empty].any()
    assert len(out.sequences) == out.prompt_mask.sum()


@torch.no_grad()
def test_scores_may_count_the_captions(model, images):
    plain = model.generate(**images, detect_objects=True, max_new_tokens=4)
    model.proposal_head.config.multiply_caption_score = True
    counted = model.generate(**images, detect_objects=True, max_new_tokens=4)
    assert (counted.detection_scores[:, 1:] <= counted.detection_scores[:, :-1]).all()
    assert len(counted.sequences) == len(plain.sequences)
    # Boxes and captions stay together under the new order.
    sequences = {
        tuple(box.tolist()): row.tolist()
        for box, row in zip(plain.prompt_boxes[plain.prompt_mask], plain.sequences, strict=True)
    }
    for box, row in zip(counted.prompt_boxes[counted.prompt_mask], counted.sequences, strict=True):
        assert sequences[tuple(box.tolist())] == row.tolist()


@torch.no_grad()
def test_with_beams_the_best_pairs_of_box_and_caption_are_kept(model, images):
    model.proposal_head.config.multiply_caption_score = True
    model.proposal_head.config.max_detections = 4
    plain = model.generate(**images, detect_objects=True, max_new_tokens=4)
    out = model.generate(**images, detect_objects=True, max_new_tokens=4, num_beams=2, output_boxes=True)
    assert out.prompt_mask.sum(1).max() <= 4
    assert len(out.sequences) == len(out.boxes) == len(out.coordinates) == out.prompt_mask.sum()
    assert (out.detection_scores[:, 1:] <= out.detection_scores[:, :-1]).all()
    found = {tuple(box) for box in plain.prompt_boxes.flatten(0, 1).tolist()}
    assert all(tuple(box) in found for box in out.prompt_boxes[out.prompt_mask].tolist())


@torch.no_grad()
def test_detections_come_in_portions_too(model, images):
    whole = model.generate(**images, detect_objects=True, max_new_tokens=4)
    parts = model.generate(**images, detect_objects=True, max_new_tokens=4, prompt_chunk_size=2)
    assert torch.equal(parts.sequences, whole.sequences)
    assert_same(parts, whole, "coordinates", "prompt_boxes", "detection_scores")


@torch.no_grad()
def test_detection_takes_no_prompts_and_one_text_an_image(model, images, small_inputs):
    with pytest.raises(ValueError, match="prompt_boxes came too"):
        model.generate(**images, prompt_boxes=small_inputs["prompt_boxes"], detect_objects=True)
    with pytest.raises(ValueError, match="one row per image, but there are 2 images and 3 rows"):
        model.generate(**{**images, "input_ids": small_inputs["input_ids"]}, detect_objects=True)


# --- models without heads ---------------------------------------------------------------------------------------


@torch.no_grad()
def test_a_model_without_heads_names_the_remedy_when_asked_for_them(small_inputs, images):
    config = PixelLLMConfig.for_tests(mask_head_config=None, proposal_head_config=None)
    plain = PixelLLMForGroundedGeneration(config).eval()
    with pytest.raises(ValueError, match="no mask head.*mask_head_config is None.*Load a checkpoint"):
        plain.generate(**small_inputs, query_ids=GIVEN, output_masks=True)
    with pytest.raises(ValueError, match="no proposal head.*proposal_head_config is None.*Load a checkpoint"):
        plain.generate(**images, detect_objects=True)
    assert plain.generate(**small_inputs, query_ids=GIVEN).boxes.shape == (3, 4)


@torch.no_grad()
def test_masks_and_detections_need_the_image(model, small_inputs):
    prompt = {name: value for name, value in small_inputs.items() if name != "original_sizes"}
    states, mask = model.encode(**prompt)
    for option in ("output_masks", "detect_objects"):
        with pytest.raises(ValueError, match=f"{option} needs the image"):
            model.generate(encoder_outputs=(states,), attention_mask=mask, **{option: True})


# --- scores of boxes --------------------------------------------------------------------------------------------


def test_a_referred_box_scores_as_it_agrees_with_the_objects_detected_in_its_image(model, small_inputs, images):
    out = model.generate(**small_inputs, query_ids=GIVEN)
    found = model.generate(**images, detect_objects=True, max_new_tokens=2)
    sizes = torch.tensor([[64.0, 64, 64, 64], [64, 64, 64, 64], [64, 40, 64, 40]])
    for row, image in enumerate((0, 0, 1)):
        objects = found.prompt_boxes[image][found.prompt_mask[image]]
        best = pairwise_iou(out.boxes[row : row + 1].clamp(0, 1) * sizes[row], objects).max()
        torch.testing.assert_close(out.box_scores[row], best)
    assert out.box_scores.max() > 0


def test_an_expression_without_a_box_and_a_model_without_a_detector_give_no_score(model, small_inputs):
    out = model.generate(**small_inputs, query_ids=QUERIES)
    assert out.box_scores.isnan().tolist() == [False, False, True]
    model.proposal_head = None
    assert model.generate(**small_inputs, query_ids=QUERIES).box_scores is None
