"""What the processor makes of each task's words on the way in, and of the model's answer on the way out."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pixelllm_hf.processing.grounded_results import GroundedCaption
from pixelllm_hf.processing.prompt_locations import PromptError

SIZES_WH = [(128, 96), (50, 100), (64, 64)]


@pytest.fixture
def images():
    return [Image.new("RGB", size, "white") for size in SIZES_WH]


def texts(processor, ids):
    return [processor.tokenizer.decode(row, skip_special_tokens=True) for row in ids]


def query_answer(inputs, boxes, masks=None):
    """What `generate` answers to expressions, with these boxes (R,4) and mask logits (R,h,w)."""
    queries = inputs["query_ids"]
    sequences = torch.cat([torch.zeros(len(queries), 1, dtype=torch.int64), queries], dim=1)
    words = (sequences > 1).float()
    out = {
        "sequences": sequences,
        "coordinates": torch.tensor(boxes).view(-1, 1, 2, 2).expand(-1, sequences.shape[1], -1, -1).float(),
        "token_log_probs": torch.log(torch.where(words > 0, 0.25, torch.nan)),
        "boxes": torch.tensor(boxes).float(),
    }
    out["coordinates"] = torch.where((words > 0)[..., None, None], out["coordinates"], torch.nan)
    if masks is not None:
        out |= {"masks": torch.as_tensor(masks).float(), "mask_scores": torch.full((len(queries),), 0.75)}
    return out


def detection_answer(tokenizer, found, num_slots=3):
    """What `generate` answers when it finds objects; found: per image a list of (box on the canvas, score, text)."""
    rows = [tokenizer(text, add_special_tokens=False).input_ids for image in found for _, _, text in image]
    length = max((len(row) for row in rows), default=-1) + 2
    sequences = torch.tensor([[0, *row, 1] + [0] * (length - len(row) - 2) for row in rows]).reshape(-1, length)
    boxes = torch.zeros(len(found), num_slots, 4)
    scores, mask = torch.zeros(len(found), num_slots), torch.zeros(len(found), num_slots, dtype=torch.bool)
    for i, image in enumerate(found):
        for j, (box, score, _) in enumerate(image):
            boxes[i, j], scores[i, j], mask[i, j] = torch.tensor(box), score, True
    return {
        "sequences": sequences,
        "coordinates": torch.full((len(rows), length, 2, 2), 0.5),
        "prompt_boxes": boxes,
        "prompt_mask": mask,
        "detection_scores": scores,
    }


# --- in ---


@pytest.mark.parametrize("task", ["refer", "segment"])
def test_expressions_are_asked_for_and_given_as_the_answer(processor, images, task):
    inputs = processor(images[:2], text=[["a red ball", "a dog"], "it"], task=task)
    assert texts(processor, inputs["input_ids"]) == ["where is a red ball", "where is a dog", "where is it"]
    assert texts(processor, inputs["query_ids"]) == ["a red ball", "a dog", "it"]
    for row in inputs["query_ids"].tolist():
        end = row.index(1)
        assert 0 not in row[:end] and not any(row[end + 1 :]), "EOS, then padding on the right"
    assert inputs["query_ids"].dtype == torch.int64
    assert inputs["prompt_mask"].tolist() == [[True, True], [True, False]]
    assert inputs["prompt_boxes"][0].tolist() == [[0, 0, 64, 48]] * 2, "each is about the whole image"


def test_only_segmentation_wants_masks_and_the_wish_can_move_to_a_device(processor, images):
    inputs = processor(images[0], text="a dog", task="segment")
    assert inputs["output_masks"].dtype == torch.bool and inputs["output_masks"].shape == ()
    assert {name: value.to("cpu") for name, value in inputs.items()}["output_masks"]
    assert isinstance(processor(images[0], text="a", task="segment", return_tensors="np")["output_masks"], np.ndarray)
    for task in ("refer", "caption"):
        assert "output_masks" not in processor(images[0], text="a dog", task=task)
    assert "query_ids" not in processor(images[0], text="a dog", task="caption")


def test_blanks_around_an_expression_change_nothing(processor, images):
    plain, blank = (processor(images[0], text=text, task="refer") for text in ("a dog", "  a dog \n"))
    for name in ("input_ids", "query_ids"):
        assert torch.equal(plain[name], blank[name])


def test_finding_objects_needs_one_text_an_image_and_no_place(processor, images):
    inputs = processor(images, task="dense")
    assert texts(processor, inputs["input_ids"]) == ["an object of"] * 3
    assert inputs["detect_objects"].dtype == torch.bool and inputs["detect_objects"].item() is True
    assert not {"prompt_boxes", "prompt_mask", "prompt_points", "query_ids"} & set(inputs)
    assert texts(processor, processor(images[:2], text=["a dog", None], task="dense")["input_ids"])[0] == "a dog"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (dict(task="refer", text=""), "text 0 of image 0 is empty"),
        (dict(task="segment", text=["a dog", "  "]), "text 1 of image 0 is empty"),
        (dict(task="refer"), "needs an expression for every prompt"),
        (dict(task="segment", text=["a dog", None]), "needs an expression"),
        (dict(task="refer", text="a</s> dog"), "</s>.*Remove"),
        (dict(task="refer", text="z " * 200), r"128 tokens \(max_prompt_tokens\)"),
        (dict(task="fly"), "the tasks are caption, trace, region, refer, segment, dense"),
        (dict(task="dense", boxes=[[1, 2, 3, 4]]), "finds the objects itself.*task='region'"),
        (dict(task="dense", points=[(1, 2)]), "takes no boxes or points"),
        (dict(task="dense", text=["a dog", "it"]), "one text prompt for all objects.*image 0 has 2"),
        (dict(task="region", boxes=[[5, 5, 5, 9]]), "x1 <= x0"),
    ],
)
def test_what_cannot_be_asked_is_refused_by_name(processor, images, call, message):
    with pytest.raises(PromptError, match=message):
        processor(images[0], **call)


def test_texts_and_images_of_different_numbers_are_refused(processor, images):
    with pytest.raises(PromptError, match="2 images and 3 lists"):
        processor(images[:2], text=["a", "dog", "it"], task="refer")
    with pytest.raises(PromptError, match="2 images and 1 lists"):
        processor(images[:2], text=[["a", "dog"]], task="segment")


# --- out ---


def test_the_box_of_an_expression_comes_back_in_pixels_of_its_image(processor, images):
    inputs = processor(images[:2], text=[["a dog", "it"], "a ball"], task="refer")
    boxes = [[0.25, 0.5, 0.75, 1.5], [0.0, 0.0, 0.5, 0.5], [float("nan")] * 4]
    (dog, it), (ball,) = processor.post_process_refer(query_answer(inputs, boxes), inputs)
    assert dog.text == "a dog" and dog.prompt == "where is a dog" and it.prompt_index == 1
    assert dog.box == (32, 48, 96, 96), "within the image"
    assert it.box == (0, 0, 64, 48) and it.prompt_box is None
    assert dog.score == pytest.approx(0.25) and dog.box_score is None and dog.words[1].box == dog.box
    assert ball.box is None and ball.location is None


def test_a_mask_covers_the_same_part_of_the_image_as_of_the_canvas(processor, images):
    inputs = processor(images[:2], text=["a dog", "it"], task="segment")
    logits = np.full((2, 16, 16), -1.0)
    logits[0, :6, :8] = 1  # 128 x 96 fills 16 x 12 of the 16 cells: the left top quarter of the image
    logits[1, :, 8:] = 1  # the padding beside 50 x 100
    out = query_answer(inputs, [[0, 0, 0.5, 0.5]] * 2, logits)
    (dog,), (it,) = processor.post_process_segment(out, inputs)
    assert dog.mask.shape == (96, 128) and dog.mask.dtype == bool
    assert dog.mask[:44, :60].all() and not dog.mask[52:].any() and not dog.mask[:, 68:].any()
    assert it.mask.shape == (100, 50) and not it.mask.any()
    assert dog.mask_score == 0.75
    as_arrays = {name: np.asarray(value) for name, value in out.items()}
    assert processor.post_process_segment(as_arrays, inputs) == [[dog], [it]]


def test_answers_without_what_was_asked_for_say_how_to_get_it(processor, images):
    inputs = processor(images[0], text="a dog", task="segment")
    out = query_answer(inputs, [[0.0, 0, 1, 1]])
    with pytest.raises(ValueError, match="task='segment'"):
        processor.post_process_segment(out, inputs)
    with pytest.raises(ValueError, match="task='refer'"):
        processor.post_process_refer({"sequences": out["sequences"]}, inputs)


def test_found_objects_come_best_first_with_their_boxes(processor, images):
    inputs = processor(images, task="dense")
    found = [
        [([0, 0, 32, 24], 0.5, "a dog"), ([8, 8, 16, 16], 0.9, "it")],
        [],
        [([-5, 0, 70, 64], 0.25, "a ball")],
    ]
    out = detection_answer(processor.tokenizer, found)
    first, second, third = processor.post_process_dense(out, inputs)
    assert [(r.text, r.box_score) for r in first] == [("it", pytest.approx(0.9)), ("a dog", 0.5)]
    assert first[1].box == (0, 0, 64, 48) and first[1].prompt_index == 0
    assert first[0].prompt == "an object of" and first[0].prompt_box is None
    assert second == [] and third[0].box == (0, 0, 64, 64)
    assert len(third[0].words) == 2 and third[0].words[1].point == (32, 32)


def test_found_objects_can_be_limited(processor, images):
    inputs = processor(images[2], task="dense")
    found = [([0, 0, side, 9], score, "it") for side, score in ((7, 0.2), (8, 0.8), (9, 0.5))]
    out = detection_answer(processor.tokenizer, [found])
    scores = lambda **limits: [  # noqa: E731
        round(r.box_score, 3) for r in processor.post_process_dense(out, inputs, **limits)[0]
    ]
    assert scores() == [0.8, 0.5, 0.2]
    assert scores(max_results=2) == [0.8, 0.5] and scores(max_results=0) == []
    assert scores(min_score=0.5) == [0.8, 0.5] and scores(min_score=0.9, max_results=1) == []
    for nonsense in ({"max_results": -1}, {"min_score": float("nan")}):
        with pytest.raises(ValueError, match=next(iter(nonsense))):
            scores(**nonsense)


def test_of_a_boxs_captions_the_best_is_kept_unless_all_are_asked_for(processor, images):
    inputs = processor(images[2], task="dense")
    box, other = [0, 0, 9, 9], [0, 0, 8, 9]
    found = [(box, 0.3, "a dog"), (other, 0.5, "it"), (box, 0.8, "a ball"), (box, 0.2, "it")]
    out = detection_answer(processor.tokenizer, [found], num_slots=4)
    assert [r.text for r in processor.post_process_dense(out, inputs)[0]] == ["a ball", "it"]
    assert len(processor.post_process_dense(out, inputs, max_results=2)[0]) == 2
    every = processor.post_process_dense(out, inputs, every_caption=True)[0]
    assert [r.text for r in every] == ["a ball", "it", "a dog", "it"]


def test_images_without_objects_give_empty_lists(processor, images):
    inputs = processor(images, task="dense")
    out = detection_answer(processor.tokenizer, [[], [], []])
    assert out["sequences"].shape == (0, 1)
    assert processor.post_process_dense(out, inputs) == [[], [], []]
    out["masks"] = torch.zeros(0, 16, 16)
    assert processor.post_process_grounded_generation(out, inputs) == [[], [], []]


def test_several_answers_to_each_found_object_follow_each_other(processor, images):
    inputs = processor(images[:2], task="dense")
    one = detection_answer(processor.tokenizer, [[([0, 0, 9, 9], 0.5, "a")], [([0, 0, 9, 9], 0.5, "it")]])
    two = {**one, "sequences": one["sequences"].repeat_interleave(2, 0)}
    two["coordinates"] = one["coordinates"].repeat_interleave(2, 0)
    results = processor.post_process_dense(two, inputs)
    assert [[r.text for r in row] for row in results] == [["a", "a"], ["it", "it"]]


def test_what_was_found_must_come_with_the_answer(processor, images):
    inputs = processor(images[0], task="dense")
    with pytest.raises(ValueError, match="prompt_boxes and prompt_mask"):
        processor.post_process_dense({"sequences": torch.zeros(1, 3, dtype=torch.int64)}, inputs)
    with pytest.raises(ValueError, match="cannot be streamed"):
        processor.prompt_sources(inputs, 4)


def test_captions_of_places_are_about_those_places(processor, images):
    inputs = processor(images[0], boxes=[[0, 0, 64, 48], None], task="region")
    out = {"sequences": torch.tensor([[0, 5, 1], [0, 6, 1]])}
    box, whole = processor.post_process_region(out, inputs)[0]
    assert box.location == (0, 0, 64, 48) and box.box is None and whole.location is None


# --- results ---


def test_a_result_with_a_mask_survives_json():
    mask = np.random.default_rng(0).random((48, 64)) < 0.5
    result = GroundedCaption("it", (), (64, 48), box=(1.0, 2.0, 3.0, 4.0), box_score=0.5, mask=mask, mask_score=0.25)
    record = json.loads(json.dumps(result.to_dict()))
    assert set(record["mask"]) == {"size", "counts"}
    again = GroundedCaption.from_dict(record)
    assert again == result and again.mask.dtype == bool
    other = GroundedCaption.from_dict(record | {"mask": None, "targets": [record["targets"][0] | {"mask": None}]})
    assert other != result and other != GroundedCaption.from_dict(record)
    assert hash(again) == hash(result)
    mask[0, 0] ^= True
    assert again != result, "the mask counts"


def test_a_mask_of_another_size_is_refused():
    with pytest.raises(ValueError, match=r"\(48, 64\).*\(64, 48\)"):
        GroundedCaption("it", (), (64, 48), mask=np.zeros((64, 48), bool))
    record = GroundedCaption("it", (), (64, 48), mask=np.zeros((48, 64), bool)).to_dict()
    with pytest.raises(ValueError, match="another image"):
        GroundedCaption.from_dict(record | {"image_size": [63, 48]})


def test_an_object_is_drawn_as_an_object_and_a_caption_as_a_caption(tmp_path: Path):
    image = Image.new("RGB", (64, 48), "white")
    caption = GroundedCaption("it", (), (64, 48))
    thing = GroundedCaption("it", (), (64, 48), box=(5.0, 5.0, 40.0, 40.0))
    assert caption.draw(image) != thing.draw(image)
    assert thing.draw(image, boxes=False, labels=False) != thing.draw(image)
    with pytest.raises(ValueError, match="64 x 48 pixels, but this one is 48 x 64"):
        thing.draw(Image.new("RGB", (48, 64)))
