from __future__ import annotations

from typing import Literal

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from pixelllm_hf.data.coco_captions import read_coco_captions
from pixelllm_hf.data.collator import GroundedCollator
from pixelllm_hf.data.image_transforms import REFERENCE_AUGMENTATION, Augmentation
from pixelllm_hf.data.localized_narratives import read_localized_narratives
from pixelllm_hf.data.mixing import GroundedBatches, undecoded
from pixelllm_hf.data.referring_expressions import read_referring_expressions
from pixelllm_hf.data.visual_genome import read_visual_genome
from pixelllm_hf.processing.image_processing_pixelllm import PixelLLMImageProcessor

CANVAS = 64


@pytest.fixture
def sources(squares):
    return {
        "trace": read_localized_narratives(squares.narratives, squares.images),
        "caption": read_coco_captions(squares.captions, squares.images),
        "refer": read_referring_expressions(squares.refs, squares.instances, squares.images),
        "region": read_visual_genome(squares.regions, squares.image_data, squares.images),
        "segment": read_referring_expressions(squares.refs, squares.instances, squares.images, task="segment"),
        "dense": read_visual_genome(squares.regions, squares.image_data, squares.images, task="dense"),
    }


def rows_of(source) -> list:
    source = undecoded(source)
    return [source[i] for i in range(len(source))]


def same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k].nan_to_num(-9), b[k].nan_to_num(-9)) for k in a)


def test_words_of_a_narrative_learn_their_boxes_and_the_end_learns_none(sources, squares, tokenizer):
    batch = GroundedCollator(tokenizer, image_size=CANVAS)(rows_of(sources["trace"]))
    assert tokenizer.convert_ids_to_tokens(batch["labels"][0].tolist()) == ["▁a", "▁red", "▁square", ".", "</s>"]
    assert batch["point_labels"].shape == (4, 5, 2, 2)
    box = torch.tensor(squares.boxes[0]).reshape(2, 2) / torch.tensor([60.0, 40.0])
    torch.testing.assert_close(batch["point_labels"][0, 1], box, atol=0.11, rtol=0)
    assert bool(batch["point_labels"][:, -1].isnan().all())
    assert not bool(batch["point_labels"][:, :-1].isnan().any())
    assert batch["text_loss_mask"].tolist() == [1.0] * 4


def test_an_expression_learns_its_box_at_the_last_word_alone(sources, squares, tokenizer):
    batch = GroundedCollator(tokenizer, image_size=CANVAS)(rows_of(sources["refer"]))
    assert tokenizer.decode(batch["input_ids"][0], skip_special_tokens=True) == "where is the red square"
    placed = ~batch["point_labels"][0].isnan().flatten(1).any(1)
    assert tokenizer.convert_ids_to_tokens(batch["labels"][0][placed].tolist()) == ["▁square"]
    expected = torch.tensor(squares.boxes[0]).reshape(2, 2) / torch.tensor([60.0, 40.0])
    torch.testing.assert_close(batch["point_labels"][0][placed][0], expected)
    assert batch["text_loss_mask"].tolist() == [0.0] * 4


def test_a_region_is_asked_by_its_box_on_the_canvas(sources, squares, tokenizer):
    batch = GroundedCollator(tokenizer, image_size=CANVAS)(rows_of(sources["region"]))
    torch.testing.assert_close(batch["prompt_boxes"][2, 0], torch.tensor(squares.boxes[2]) * CANVAS / 50)
    assert bool(batch["point_labels"].isnan().all())
    learned = GroundedCollator(tokenizer, image_size=CANVAS, region_points=True, object_points="all")
    assert not bool(learned(rows_of(sources["region"]))["point_labels"][:, :3].isnan().any())


@pytest.mark.parametrize("augmentation", [None, Augmentation((0.5, 1.6)), Augmentation((0.7, 1.0), 1.0)])
def test_a_mask_lies_on_its_object_in_every_view(sources, tokenizer, augmentation):
    collate = GroundedCollator(
        tokenizer, image_size=CANVAS, antialias=False, augmentation={"segment": augmentation or Augmentation()}
    )
    rows = rows_of(sources["segment"])
    batch = collate(rows, [np.random.default_rng([7, i]) for i in range(len(rows))])
    assert batch["mask_labels"].shape == (4, CANVAS, CANVAS)
    assert batch["mask_labels"].dtype == torch.uint8
    assert batch["mask_loss_mask"].tolist() == [1.0] * 4
    lit = batch["pixel_values"].amax(1) > 110
    for seen, mask in zip(lit, batch["mask_labels"] > 0, strict=True):
        assert (seen & mask).sum() / (seen | mask).sum() > 0.85


def test_a_segment_batch_is_a_refer_batch_with_masks(sources, tokenizer):
    collate = GroundedCollator(tokenizer, image_size=CANVAS)
    batch = collate(rows_of(sources["segment"]))
    masks = {name: batch.pop(name) for name in ("mask_labels", "mask_loss_mask")}
    assert bool(masks["mask_labels"].any())
    assert same(batch, collate(rows_of(sources["refer"])))


def test_rows_without_a_mask_in_view_do_not_learn_one(sources, tokenizer):
    rows = rows_of(sources["segment"])[:3]
    rows[0]["prompts"][0]["mask"] = None
    del rows[1]["prompts"][0]["mask"]
    batch = GroundedCollator(tokenizer, image_size=CANVAS)(rows)
    assert batch["mask_loss_mask"].tolist() == [0.0, 0.0, 1.0]
    assert not bool(batch["mask_labels"][:2].any())


def test_a_dense_batch_has_objects_and_no_prompts(sources, squares, tokenizer):
    rows = rows_of(sources["dense"])
    second = {**rows[0]["prompts"][0], "target": "the yellow square square", "box": [1.0, 2.0, 3.0, 5.0]}
    rows[0]["prompts"] = [rows[0]["prompts"][0], {**second, "object_box": second["box"]}]
    batch = GroundedCollator(tokenizer, image_size=CANVAS, max_prompts=9)(rows)
    assert set(batch) == {
        *("pixel_values", "pixel_mask", "original_sizes", "input_ids", "attention_mask"),
        *("object_boxes", "object_labels"),
    }
    assert tokenizer.batch_decode(batch["input_ids"], skip_special_tokens=True) == ["an object of"] * 4
    assert batch["object_boxes"].shape == (4, 2, 4)
    torch.testing.assert_close(batch["object_boxes"][2, 0], torch.tensor(squares.boxes[2]) * CANVAS / 50)
    assert batch["object_boxes"].any(-1).sum(1).tolist() == [2, 1, 1, 1]
    labels = batch["object_labels"]
    assert tokenizer.convert_ids_to_tokens(labels[0, 1].tolist()) == ["▁the", "▁yellow", "▁square", "▁square", "</s>"]
    assert bool((labels[1:, 1] == -100).all())
    assert labels[1, 0, 3:].tolist() == [tokenizer.eos_token_id, -100]


def test_dense_phrases_learn_their_boxes_where_that_is_wanted(sources, squares, tokenizer):
    rows = rows_of(sources["dense"])
    rows[0]["prompts"] = rows[0]["prompts"] * 2
    collate = GroundedCollator(tokenizer, image_size=CANVAS, max_prompts=2, region_points=True, object_points="all")
    batch = collate(rows)
    assert batch["point_labels"].shape == (*batch["object_labels"].shape, 2, 2)
    placed = ~batch["point_labels"].isnan().flatten(3).any(-1)
    words = (batch["object_labels"] != -100) & (batch["object_labels"] != tokenizer.eos_token_id)
    assert torch.equal(placed, words)
    box = torch.tensor(squares.boxes[2]).reshape(2, 2) / 50
    torch.testing.assert_close(batch["point_labels"][2, 0, 0], box)
    plain = GroundedCollator(tokenizer, image_size=CANVAS, max_prompts=2)(rows)
    assert same(plain, {name: tensor for name, tensor in batch.items() if name != "point_labels"})


def test_of_many_objects_the_first_in_view_are_taken(sources, tokenizer):
    row = rows_of(sources["dense"])[0]
    boxes = [[4.0 * i, 4.0, 4.0 * i + 4, 8.0] for i in range(10)]
    row["prompts"] = [{**row["prompts"][0], "box": box, "object_box": box} for box in boxes]
    collate = GroundedCollator(
        tokenizer, image_size=CANVAS, max_prompts=4, augmentation={"dense": Augmentation((3.0, 3.0))}
    )
    lefts = set()
    for seed in range(12):
        found = collate([row], [np.random.default_rng(seed)])["object_boxes"][0]
        assert bool((found[1:, 0] >= found[:-1, 0]).all())
        lefts.add(len(found))
    assert max(lefts) == 4


def test_dense_rows_do_not_mix_with_others(sources, tokenizer):
    with pytest.raises(ValueError, match=r"batch of their own.*\['dense', 'region'\]"):
        GroundedCollator(tokenizer, image_size=CANVAS)([rows_of(sources["dense"])[0], rows_of(sources["region"])[0]])


def test_contexts_end_with_eos_and_are_padded(sources, tokenizer):
    batch = GroundedCollator(tokenizer, image_size=CANVAS, contexts={"caption": ["a", "where is a square"]})(
        rows_of(sources["caption"])
    )
    lengths = batch["attention_mask"].sum(1)
    for ids, length in zip(batch["input_ids"], lengths, strict=True):
        assert ids[length - 1] == tokenizer.eos_token_id
        assert bool((ids[length:] == tokenizer.pad_token_id).all())
    assert set(lengths.tolist()) <= {2, 5}


def test_truncation_drops_the_end_mark(sources, tokenizer):
    batch = GroundedCollator(tokenizer, image_size=CANVAS, max_text_tokens=3, max_context_tokens=2)(
        rows_of(sources["refer"])
    )
    assert batch["labels"].shape[1] == 2  # BOS is the third
    assert tokenizer.eos_token_id not in batch["labels"]
    assert batch["input_ids"].shape[1] == 2
    assert tokenizer.eos_token_id not in batch["input_ids"]
    assert bool(batch["attention_mask"].all())
    assert bool(batch["point_labels"].isnan().all())  # no word stands before an end that is not there


def test_images_are_those_of_the_processor(sources, squares, tokenizer):
    for antialias in (True, False):
        processor = PixelLLMImageProcessor(size={"height": CANVAS, "width": CANVAS}, antialias=antialias)
        collate = GroundedCollator(tokenizer, image_size=CANVAS, antialias=antialias)
        batch = collate(rows_of(sources["trace"]))
        shown = processor(sorted(str(path) for path in squares.images.iterdir()), return_tensors="pt")
        assert all(torch.equal(batch[name], shown[name]) for name in ("pixel_values", "pixel_mask", "original_sizes"))


def test_the_whole_image_is_the_box_of_its_unpadded_part(sources, tokenizer):
    batch = GroundedCollator(tokenizer, image_size=CANVAS)(rows_of(sources["caption"]))
    for box, mask in zip(batch["prompt_boxes"][:, 0], batch["pixel_mask"], strict=True):
        assert box.tolist() == [0, 0, mask.any(0).sum(), mask.any(1).sum()]


def test_prompts_are_ragged_and_image_major(sources, tokenizer):
    rows = rows_of(sources["region"])
    rows[1]["prompts"] = rows[1]["prompts"] * 3
    batch = GroundedCollator(tokenizer, image_size=CANVAS, max_prompts=2)(rows)
    assert batch["prompt_mask"].tolist() == [[True, False], [True, True], [True, False], [True, False]]
    assert batch["labels"].shape[0] == 5
    words = [tokenizer.decode(row[row >= 0], skip_special_tokens=True) for row in batch["labels"]]
    assert words == ["a red square", "a green square", "a green square", "a blue square", "a yellow square"]
    assert bool((batch["prompt_boxes"][~batch["prompt_mask"]] == 0).all())


def test_surplus_prompts_are_drawn_or_cut(sources, tokenizer):
    row = rows_of(sources["region"])[0]
    row["prompts"] = [{**row["prompts"][0], "target": word} for word in ("red", "green", "blue", "yellow", "one")]

    def targets(choice: Literal["random", "first"], seed: int) -> list[str]:
        collate = GroundedCollator(tokenizer, image_size=CANVAS, max_prompts=2, prompt_choice=choice)
        batch = collate([row], [np.random.default_rng(seed)])
        return [tokenizer.decode(ids[ids >= 0], skip_special_tokens=True) for ids in batch["labels"]]

    assert targets("first", 0) == targets("first", 1) == ["red", "green"]
    assert len({tuple(targets("random", seed)) for seed in range(8)}) > 2


def test_objects_that_a_crop_removes_take_their_prompts_with_them(sources, tokenizer):
    row = rows_of(sources["refer"])[0]
    far = {**row["prompts"][0], "target": "one", "object_box": [55.0, 30.0, 60.0, 40.0]}
    row["prompts"] = [*row["prompts"], far]
    collate = GroundedCollator(
        tokenizer, image_size=CANVAS, max_prompts=2, augmentation={"refer": Augmentation((3.0, 3.0))}
    )
    counts = {collate([row], [np.random.default_rng(seed)])["labels"].shape[0] for seed in range(20)}
    assert 1 in counts
    assert min(counts) > 0


@pytest.mark.parametrize("augmentation", [REFERENCE_AUGMENTATION, {"refer": Augmentation((0.4, 2.0), 1.0)}])
def test_points_lie_on_the_object_in_every_view(sources, tokenizer, augmentation):
    collate = GroundedCollator(tokenizer, image_size=CANVAS, antialias=False, augmentation=augmentation)
    for seed in range(6):
        rows = rows_of(sources["refer"])
        batch = collate(rows, [np.random.default_rng([seed, i]) for i in range(len(rows))])
        for pixels, box, points in zip(
            batch["pixel_values"], batch["prompt_boxes"][:, 0], batch["point_labels"], strict=True
        ):
            corners = points[~points.isnan().flatten(1).any(1)][0] * box[2:]
            x, y = corners.mean(0).long().tolist()
            assert pixels[:, y, x].max() > 100
            ys, xs = torch.nonzero(pixels.amax(0) > 110, as_tuple=True)
            found = torch.tensor([[xs.min(), ys.min()], [xs.max() + 1, ys.max() + 1]], dtype=torch.float32)
            torch.testing.assert_close(found, corners, atol=2.0, rtol=0)


def test_the_reference_alignment_differs_where_a_word_was_not_said(squares, sources, tokenizer):
    rows = rows_of(sources["trace"])[:1]
    prompt = rows[0]["prompts"][0]
    prompt["target"] = "a the red square"  # "the" was never said
    by_text = GroundedCollator(tokenizer, image_size=CANVAS, align="text")(rows)["point_labels"]
    by_rank = GroundedCollator(tokenizer, image_size=CANVAS, align="rank")(rows)["point_labels"]
    assert by_text.isnan().flatten(2).any(2)[0].tolist() == [False, True, False, False, True]
    assert by_rank.isnan().flatten(2).any(2)[0].tolist() == [False, False, False, False, True]


def test_batches_are_the_same_in_every_process_and_order(sources, tokenizer):
    def batches():
        collate = GroundedCollator(tokenizer, image_size=CANVAS, augmentation=REFERENCE_AUGMENTATION)
        return GroundedBatches(sources, collate, batch_size=3, seed=5)

    one, other = batches(), batches()
    expected = [one.batch_at(step) for step in range(8)]
    for step in (7, 2, 5):
        assert same(other.batch_at(step), expected[step])

    class Steps(torch.utils.data.Dataset):
        def __getitem__(self, step):
            return one.batch_at(step)

    for step, batch in enumerate(DataLoader(Steps(), batch_size=None, sampler=range(8), num_workers=2)):
        assert same(batch, expected[step])


def test_a_stream_feeds_a_data_loader(squares, tokenizer):
    stream = read_localized_narratives(squares.narratives, squares.images, streaming=True)
    collate = GroundedCollator(tokenizer, image_size=CANVAS)
    batches = list(DataLoader(undecoded(stream), batch_size=3, collate_fn=collate))
    assert [len(batch["pixel_values"]) for batch in batches] == [3, 1]


def test_rows_survive_parquet(sources, squares, tokenizer):
    path = squares.folder / "rows.parquet"
    sources["trace"].to_parquet(path)
    again = datasets.load_dataset("parquet", data_files=str(path), split="train", cache_dir=str(squares.folder / "c"))
    assert again.features == sources["trace"].features
    collate = GroundedCollator(tokenizer, image_size=CANVAS)
    assert same(collate(rows_of(again)), collate(rows_of(sources["trace"])))


def test_an_image_of_another_shape_is_refused_and_a_smaller_copy_is_not(sources, tokenizer):
    collate = GroundedCollator(tokenizer, image_size=CANVAS)
    row = rows_of(sources["trace"])[0]
    copy = collate([{**row, "image": Image.open(row["image"]["path"]).resize((30, 20))}])
    original = collate([row])
    torch.testing.assert_close(copy["point_labels"], original["point_labels"], equal_nan=True)
    with pytest.raises(ValueError, match="another shape"):
        collate([{**row, "image": Image.new("RGB", (40, 60))}])


def test_unusable_rows_and_settings_are_explained(sources, squares, tokenizer):
    collate = GroundedCollator(tokenizer, image_size=CANVAS)
    row = rows_of(sources["region"])[0]
    with pytest.raises(ValueError, match="no usable prompt"):
        collate([{**row, "prompts": []}])
    with pytest.raises(ValueError, match="has no image"):
        collate([{**row, "image": None}])
    with pytest.raises(ValueError, match="at least one row"):
        collate([])
    (squares.images / "000000000001.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"000000000001\.png"):
        collate([row])
    with pytest.raises(ValueError, match="align"):
        GroundedCollator(tokenizer, image_size=CANVAS, align="words")
    with pytest.raises(ValueError, match="max_prompts"):
        GroundedCollator(tokenizer, image_size=CANVAS, max_prompts=0)
    with pytest.raises(TypeError, match="fast tokenizer"):
        GroundedCollator(object(), image_size=CANVAS)
