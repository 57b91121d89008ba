from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from pixelllm_hf.processing.canvas_transform import CanvasTransform
from pixelllm_hf.processing.processing_pixelllm import PixelLLMProcessor
from pixelllm_hf.processing.prompt_locations import PromptError

SIZES_WH = [(128, 96), (50, 100), (64, 64)]


@pytest.fixture
def images():
    dice = np.random.default_rng(0)
    return [Image.fromarray(dice.integers(0, 256, (h, w, 3), dtype=np.uint8)) for w, h in SIZES_WH]


def answer(rows, tokens=4, points=2, seed=0):
    """A made-up answer of the model: BOS, three random tokens a row."""
    dice = torch.Generator().manual_seed(seed)
    sequences = torch.randint(3, 60, (rows, tokens), generator=dice)
    sequences[:, 0] = 0
    coordinates = torch.rand(rows, tokens, points, 2, generator=dice)
    coordinates[:, 0] = torch.nan
    log_probs = -torch.rand(rows, tokens, generator=dice)
    log_probs[:, 0] = torch.nan
    return {"sequences": sequences, "coordinates": coordinates, "token_log_probs": log_probs}


def sentence_answer(tokenizer, text, places):
    """The answer that writes `text`; places (T,P,2) of its tokens."""
    ids = [0, *tokenizer(text, add_special_tokens=False).input_ids, 1, 0]
    coordinates = torch.full((1, len(ids), *torch.tensor(places).shape[1:]), torch.nan)
    coordinates[0, 1 : 1 + len(places)] = torch.tensor(places)
    return {"sequences": torch.tensor([ids]), "coordinates": coordinates}


# --- in ---


def test_ragged_prompts_are_padded_and_masked(processor, images):
    boxes = [[[0, 0, 64, 48], None], None, [[1, 2, 3, 4], [10, 10, 60, 60], [0, 0, 64, 64]]]
    inputs = processor(images, boxes=boxes)
    assert inputs["prompt_mask"].tolist() == [[True, True, False], [True, False, False], [True, True, True]]
    assert inputs["prompt_boxes"].dtype == torch.float32 and inputs["prompt_boxes"].shape == (3, 3, 4)
    assert inputs["prompt_boxes"][0].tolist() == [[0, 0, 32, 24], [0, 0, 64, 48], [0, 0, 0, 0]]
    assert inputs["prompt_boxes"][1, 0].tolist() == [0, 0, 32, 64]
    assert inputs["input_ids"].shape[0] == inputs["attention_mask"].shape[0] == 6
    assert inputs["original_sizes"].tolist() == [[96, 128], [100, 50], [64, 64]]
    assert "prompt_points" not in inputs
    assert set(inputs) == set(processor.model_input_names)


@pytest.mark.parametrize(
    "boxes",
    [
        [10, 20, 30, 40],
        [[10, 20, 30, 40]],
        [[[10, 20, 30, 40]]],
        ((10, 20, 30, 40),),
        np.array([[10, 20, 30, 40]]),
        torch.tensor([[[10.0, 20, 30, 40]]]),
        [np.array([10, 20, 30, 40])],
    ],
)
def test_one_box_of_one_image_may_be_written_in_any_nesting(processor, images, boxes):
    inputs = processor(images[2], boxes=boxes)
    assert inputs["prompt_boxes"].tolist() == [[[10, 20, 30, 40]]]


def test_several_boxes_of_one_image_are_its_prompts(processor, images):
    inputs = processor(images[2], boxes=[[1, 2, 3, 4], None, [5, 6, 7, 8]])
    assert inputs["prompt_boxes"].tolist() == [[[1, 2, 3, 4], [0, 0, 64, 64], [5, 6, 7, 8]]]


def test_a_box_per_image_may_be_a_flat_list(processor, images):
    inputs = processor(images[:2], boxes=[[0, 0, 64, 48], None])
    assert inputs["prompt_boxes"][:, 0].tolist() == [[0, 0, 32, 24], [0, 0, 32, 64]]


def test_boxes_are_clipped_to_the_image(processor, images):
    clipped = processor(images[0], boxes=[[-50, -50, 1000, 1000]])
    whole = processor(images[0])
    assert torch.equal(clipped["prompt_boxes"], whole["prompt_boxes"])


def test_points_travel_with_their_labels(processor, images):
    inputs = processor(images[:2], points=[[(64, 48), [(0, 0), (128, 96, 0)]], None])
    assert inputs["prompt_points"].shape == (2, 2, 4, 2)
    assert inputs["prompt_points"][0, 0, 0].tolist() == [32, 24]
    assert inputs["prompt_points"][0, 1, :2].tolist() == [[0, 0], [64, 48]]
    assert inputs["prompt_point_labels"][0].tolist() == [[1, -1, -1, -1], [1, 0, -1, -1]]
    assert (inputs["prompt_point_labels"][1] == -1).all()
    assert (inputs["prompt_boxes"][0] == 0).all() and inputs["prompt_boxes"][1, 0].tolist() == [0, 0, 32, 64]
    single = processor(images[2], points=(5, 6))
    assert single["prompt_points"][0, 0, 0].tolist() == [5, 6]


def test_boxes_and_points_can_be_mixed_prompt_by_prompt(processor, images):
    inputs = processor(images[2], boxes=[[[1, 2, 3, 4], None, None]], points=[[None, (5, 6), None]])
    assert inputs["prompt_boxes"][0].tolist() == [[1, 2, 3, 4], [0, 0, 0, 0], [0, 0, 64, 64]]
    assert inputs["prompt_point_labels"][0, :, 0].tolist() == [-1, 1, -1]
    with pytest.raises(PromptError, match="both a box and points"):
        processor(images[2], boxes=[[1, 2, 3, 4]], points=[(5, 6)])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a dog", ["a dog"] * 3),
        (["a dog", "it"], ["a dog", "a dog", "it"]),
        ([["a dog", "a ball"], "it"], ["a dog", "a ball", "it"]),
        ([["a dog", None], None], ["a dog", "A photo of", "A photo of"]),
        (None, ["A photo of"] * 3),
    ],
)
def test_text_is_given_to_all_prompts_per_image_or_per_prompt(processor, images, text, expected):
    inputs = processor(images[:2], boxes=[[[1, 2, 3, 4], None], None], text=text)
    decoded = [processor.tokenizer.decode(row, skip_special_tokens=True) for row in inputs["input_ids"]]
    assert decoded == expected


def test_texts_of_one_image_are_its_prompts_and_boxes_of_one_are_shared(processor, images):
    inputs = processor(images[2], boxes=[[1, 2, 3, 4]], text=["a dog", "a ball"])
    assert inputs["prompt_boxes"].tolist() == [[[1, 2, 3, 4], [1, 2, 3, 4]]]
    assert inputs["input_ids"].shape[0] == 2


def test_text_prompts_end_with_eos_and_are_padded_on_the_right(processor, images):
    inputs = processor(images[2], text=["a dog", "it"])
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    assert ids.dtype == mask.dtype == torch.int64
    for row, kept in zip(ids.tolist(), mask.sum(1).tolist(), strict=True):
        assert row[kept - 1] == 1 and all(i == 0 for i in row[kept:])


@pytest.mark.parametrize(
    ("task", "prompt"), [("caption", "A photo of"), ("trace", "A long image caption:"), ("region", "an object of")]
)
def test_tasks_have_their_own_words(processor, images, task, prompt):
    inputs = processor(images[0], task=task)
    assert processor.tokenizer.decode(inputs["input_ids"][0], skip_special_tokens=True) == prompt


def test_referring_puts_the_expression_into_its_phrase(processor, images):
    inputs = processor(images[0], text="a red ball", task="refer")
    assert processor.tokenizer.decode(inputs["input_ids"][0], skip_special_tokens=True) == "where is a red ball"
    with pytest.raises(ValueError, match="needs an expression"):
        processor(images[0], task="refer")
    with pytest.raises(ValueError, match="the tasks are caption, trace"):
        processor(images[0], task="fly")


def test_inputs_do_not_depend_on_neighbours(processor, images):
    boxes = [[[1, 2, 30, 40], [5, 5, 20, 20]], None, [[3, 3, 9, 9]]]
    together = processor(images, boxes=boxes)
    for i in range(3):
        alone = processor(images[i], boxes=[boxes[i]])
        assert torch.equal(together["pixel_values"][i], alone["pixel_values"][0])
        kept = together["prompt_boxes"][i][together["prompt_mask"][i]]
        assert torch.equal(kept, alone["prompt_boxes"][0])


@pytest.mark.parametrize(
    ("boxes", "message"),
    [
        ([[30, 20, 10, 40]], r"box 0 of image 0.*reversed.*xywh_to_xyxy"),
        ([[10, 20, 10, 40]], "reversed or empty"),
        ([[1, 2, 3, 4], [0, 0, float("nan"), 4]], "box 1 of image 0 must be finite"),
        ([[0, 0, float("inf"), 4]], "finite"),
        ([[0, 0, 10**400, 4]], "finite"),
        ([[200, 200, 300, 300]], r"overlap the image of 64 x 64 pixels"),
        ([[-9, -9, -1, -1]], "outside"),
        ([[1, 2, 3]], "four numbers"),
        ([[1, 2, 3, 4, 5]], "four numbers"),
        ([], "list"),
        ([[]], "non-empty"),
        ([["a", "b", "c", "d"]], "four numbers"),
        ([[[1, 2, 3, 4]], [[1, 2, 3, 4]]], "1 images and 2 lists"),
        ("everything", "lists"),
        (7, "lists"),
    ],
)
def test_bad_boxes_are_refused_by_name(processor, images, boxes, message):
    with pytest.raises(PromptError, match=message):
        processor(images[2], boxes=boxes)


@pytest.mark.parametrize(
    ("points", "message"),
    [
        ([(100, 5)], "lie in the image of 64 x 64"),
        ([(float("nan"), 5)], "lie in the image"),
        ([[[(1, 1)] * 5]], "at most 4 points, but it has 5"),
        ([(1, 2, 3)], "label is 1"),
        ([[(1, 2, 3, 4)]], "must hold points"),
        ([[[]]], "a point"),
        ([[(1, 1)], [(2, 2)]], "1 images and 2 lists"),
    ],
)
def test_bad_points_are_refused_by_name(processor, images, points, message):
    with pytest.raises(PromptError, match=message):
        processor(images[2], points=points)


def test_bad_text_is_refused_by_name(processor, images):
    with pytest.raises(PromptError, match="text 0 of image 0 is empty"):
        processor(images[0], text="  ")
    with pytest.raises(PromptError, match="must be a string"):
        processor(images[0], text=[["a", 5]])
    with pytest.raises(PromptError, match=r"128 tokens \(max_prompt_tokens\).*has 1001"):
        processor(images[0], text="z " * 500)


def test_numbers_of_prompts_must_agree(processor, images):
    with pytest.raises(PromptError, match="image 0 has 3 prompts, but 2 text"):
        processor(images[2], boxes=[[1, 2, 3, 4]] * 3, text=["a", "it"])
    with pytest.raises(PromptError, match="2 images and 3 lists"):
        processor(images[:2], boxes=[None, None, [[1, 2, 3, 4]]])
    with pytest.raises(PromptError, match="list per image"):
        processor(images[:2], boxes=[1, 2, 3, 4])
    with pytest.raises(PromptError, match="images is None"):
        processor(boxes=[[1, 2, 3, 4]])


def test_text_alone_is_tokenized(processor):
    assert set(processor(text=["a dog", "it"])) == {"input_ids", "attention_mask"}


# --- out ---


def test_answers_find_their_image_and_prompt(processor, images):
    boxes = [[[0, 0, 64, 48], None], None, [[1, 2, 3, 4], [10, 10, 60, 60]]]
    inputs = processor(images, boxes=boxes, text=[["a", "it"], "a dog", None])
    results = processor.post_process_grounded_generation(answer(5), inputs)
    assert [[r.prompt_index for r in row] for row in results] == [[0, 1], [0], [0, 1]]
    assert [[r.prompt for r in row] for row in results] == [["a", "it"], ["a dog"], ["A photo of"] * 2]
    assert [r.image_size for row in results for r in row] == [SIZES_WH[i] for i in (0, 0, 1, 2, 2)]
    assert results[0][0].prompt_box == (0, 0, 64, 48) and results[0][1].prompt_box is None
    assert results[2][1].prompt_box == (10, 10, 60, 60)


def test_several_answers_of_a_prompt_follow_each_other(processor, images):
    inputs = processor(images[:2], boxes=[[[0, 0, 64, 48], None], None])
    out = answer(6)
    results = processor.post_process_grounded_generation(out, inputs)
    assert [[r.prompt_index for r in row] for row in results] == [[0, 0, 1, 1], [0, 0]]
    texts = [processor.tokenizer.decode(row, skip_special_tokens=True).strip() for row in out["sequences"]]
    assert [r.text for row in results for r in row] == texts


def test_point_prompts_come_back_in_image_pixels(processor, images):
    inputs = processor(images[0], points=[[[(64, 48), (128, 96, 0)]]])
    result = processor.post_process_grounded_generation(answer(1), inputs)[0][0]
    assert result.prompt_points == ((64, 48, 1), (128, 96, 0)) and result.prompt_box is None


def test_sub_words_are_merged_into_words_with_the_box_around_them(processor, images):
    tokenizer = processor.tokenizer
    tokens = tokenizer.convert_ids_to_tokens(tokenizer("a chases.", add_special_tokens=False).input_ids)
    assert tokens == ["▁a", "▁cha", "ses", "."]
    places = [[[0.5, 0.5], [0.6, 0.7]], [[0.3, 0.2], [0.1, 0.4]], [[0.2, 0.1], [0.25, 0.3]], [[0.9, 0.9], [1, 1]]]
    inputs = processor(images[0])
    result = processor.post_process_grounded_generation(sentence_answer(tokenizer, "a chases.", places), inputs)[0][0]
    a, chases = result.words
    assert (a.text, a.start, a.end) == ("a", 0, 1) and (chases.text, chases.start, chases.end) == ("chases", 2, 8)
    assert chases.box == pytest.approx((0.1 * 128, 0.1 * 96, 0.3 * 128, 0.4 * 96), rel=1e-5)
    assert chases.point == pytest.approx((0.2 * 128, 0.25 * 96), rel=1e-5)
    assert result.trace == [a.point, chases.point] and result.score is None


def test_places_outside_are_moved_to_the_border_and_unknown_ones_are_none(processor, images):
    places = [[[-0.5, 0.5], [0.5, 1.5]], [[float("nan")] * 2] * 2, [[float("nan"), 0.5], [0.1, 0.2]]]
    inputs = processor(images[0])
    out = sentence_answer(processor.tokenizer, "a dog it", places)
    a, dog, it = processor.post_process_grounded_generation(out, inputs)[0][0].words
    assert a.box == (0, 48, 64, 96) and a.point == (32, 72)
    assert dog.box is None and dog.point is None
    assert it.box == pytest.approx((12.8, 19.2, 12.8, 19.2)), "one finite point is a place"


def test_one_point_a_token_gives_a_point(processor, images):
    inputs = processor(images[0])
    out = sentence_answer(processor.tokenizer, "a dog", [[[0.25, 0.5]], [[0.5, 0.25]]])
    words = processor.post_process_grounded_generation(out, inputs)[0][0].words
    assert [w.point for w in words] == [(32, 48), (64, 24)] and words[0].box == (32, 48, 32, 48)


def test_scores_are_geometric_means_of_token_probabilities(processor, images):
    out = sentence_answer(processor.tokenizer, "a chases", [[[0.5, 0.5]]] * 3)
    out["token_log_probs"] = torch.log(torch.tensor([[np.nan, 0.5, 0.2, 0.8, np.nan, np.nan]], dtype=torch.float32))
    result = processor.post_process_grounded_generation(out, processor(images[0]))[0][0]
    assert [w.score for w in result.words] == pytest.approx([0.5, 0.4])
    assert result.score == pytest.approx(0.08 ** (1 / 3))


def test_sequences_alone_give_the_text(processor, images):
    out = sentence_answer(processor.tokenizer, "a dog", [[[0.5, 0.5]]] * 2)
    result = processor.post_process_grounded_generation(out["sequences"], processor(images[0]))[0][0]
    assert result.text == "a dog" and [w.point for w in result.words] == [None, None]


def test_empty_answers_are_well_formed(processor, images):
    out = {"sequences": torch.tensor([[0, 1, 0]]), "coordinates": torch.full((1, 3, 2, 2), torch.nan)}
    result = processor.post_process_grounded_generation(out, processor(images[0]))[0][0]
    assert result.text == "" and result.words == () and result.trace == []
    assert json.loads(json.dumps(result.to_dict()))["words"] == []


def test_the_wrong_inputs_are_noticed(processor, images):
    with pytest.raises(ValueError, match="2 prompts, but it has 3"):
        processor.post_process_grounded_generation(answer(3), processor(images[:2]))
    with pytest.raises(ValueError, match="original_sizes"):
        processor.post_process_grounded_generation(answer(1), {"input_ids": torch.zeros(1, 1)})


def test_half_precision_and_numpy_answers_are_accepted(processor, images):
    inputs, out = processor(images[0]), answer(1)
    expected = processor.post_process_grounded_generation(out, inputs)
    as_numpy = {name: value.numpy() for name, value in out.items()}
    assert processor.post_process_grounded_generation(as_numpy, processor(images[0], return_tensors="np")) == expected
    out["coordinates"] = out["coordinates"].bfloat16()
    assert processor.post_process_grounded_generation(out, inputs)[0][0].text == expected[0][0].text


@pytest.mark.parametrize("size_wh", [(1, 999), (999, 1), (37, 91)])
def test_a_box_prompt_survives_the_way_there_and_back_in_odd_images(processor, size_wh):
    box = (0, 0, max(1, size_wh[0] // 2), max(1, size_wh[1] // 2))
    inputs = processor(Image.new("RGB", size_wh), boxes=[box])
    transform = CanvasTransform.fit(size_wh, 64)
    np.testing.assert_allclose(inputs["prompt_boxes"][0, 0], transform.to_canvas(box), rtol=1e-6)
    result = processor.post_process_grounded_generation(answer(1), inputs)[0][0]
    assert result.prompt_box == pytest.approx(box, abs=0.01)


@pytest.mark.parametrize("wrap", [dict, lambda out: out["sequences"], lambda out: out["sequences"].numpy()])
def test_all_that_generate_returns_can_be_decoded(processor, wrap):
    out = sentence_answer(processor.tokenizer, "a dog", [[[0.5, 0.5]]] * 2)
    assert processor.batch_decode(wrap(out), skip_special_tokens=True) == ["a dog"]
    assert processor.batch_decode(wrap(out)) == processor.tokenizer.batch_decode(out["sequences"])
    assert processor.decode(wrap(out), skip_special_tokens=True) == ["a dog"]
    assert processor.post_process_image_text_to_text(wrap(out)) == ["a dog"]


def test_rows_lists_and_ignored_labels_can_be_decoded(processor):
    ids = processor.tokenizer("a dog", add_special_tokens=False).input_ids
    assert processor.decode(torch.tensor(ids)) == processor.decode(ids) == "a dog"
    assert processor.batch_decode([ids, ids[:1]]) == ["a dog", "a"]
    assert processor.batch_decode(torch.tensor([[*ids, 1, -100]]), skip_special_tokens=True) == ["a dog"]


def test_images_and_text_come_in_the_usual_order(processor, images):
    by_order, by_name = processor(images[0], "a dog"), processor(images=images[0], text="a dog")
    assert all(torch.equal(by_order[name], by_name[name]) for name in by_name)
    with pytest.raises(PromptError, match="text 0 of image 0 must be a string"):
        processor(images[0], [[1, 2, 30, 40]])  # boxes, as they once came second
    with pytest.raises(TypeError):
        processor(images[0], "a dog", [[1, 2, 30, 40]])


def test_places_of_other_inputs_may_be_empty_only(processor, images):
    assert "pixel_values" in processor(images[0], "a dog", videos=None, audio=None)
    with pytest.raises(TypeError, match="audio"):
        processor(images[0], "a dog", audio=[0.0])


def test_open_files_are_images(processor, images, tmp_path):
    for i, image in enumerate(images[:2]):
        image.save(tmp_path / f"{i}.png")
    expected = processor(images[:2])
    with open(tmp_path / "0.png", "rb") as first, open(tmp_path / "1.png", "rb") as second:
        inputs = processor([first, second])
        assert torch.equal(processor(first)["pixel_values"], expected["pixel_values"][:1])
        assert not first.closed and first.tell() == 0
    assert torch.equal(inputs["pixel_values"], expected["pixel_values"])


# --- to disk and back ---


def test_the_processor_survives_saving(processor, images, tmp_path):
    import pixelllm_hf  # noqa: F401  (registers the classes)

    changed = PixelLLMProcessor(processor.image_processor, processor.tokenizer, max_prompt_tokens=9, max_points=2)
    changed.save_pretrained(tmp_path)
    loaded = PixelLLMProcessor.from_pretrained(tmp_path)
    assert (loaded.max_prompt_tokens, loaded.max_points, loaded.image_processor.canvas) == (9, 2, 64)
    before, after = (p(images, boxes=[None, [[1, 2, 30, 40]], None], text="a dog") for p in (changed, loaded))
    assert set(before) == set(after) and all(torch.equal(before[name], after[name]) for name in before)
