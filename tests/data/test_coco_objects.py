"""COCO instances and panoptic segments, and GRiT's captions: objects with names."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from pixelllm_hf.data.bad_records import BadRecordError, ReadReport
from pixelllm_hf.data.coco_objects import read_coco_objects, read_coco_panoptic
from pixelllm_hf.data.grit_captions import read_grit_captions
from pixelllm_hf.data.grounded_examples import GROUNDED_FEATURES
from pixelllm_hf.processing.mask_codec import decode_rle


@pytest.fixture
def panoptic(squares):
    """Each image is a square (a thing) and what is around it (stuff), as COCO packs them into PNGs."""
    coco = json.loads(squares.instances.read_text())
    folder = squares.folder / "panoptic"
    folder.mkdir()
    annotations = []
    for image, thing in zip(coco["images"], coco["annotations"], strict=True):
        x, y, w, h = (int(side) for side in thing["bbox"])
        ids = np.full((image["height"], image["width"]), 70000)
        ids[y : y + h, x : x + w] = 300
        packed = np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=-1).astype(np.uint8)
        name = image["file_name"]
        Image.fromarray(packed).save(folder / name)
        segments = [
            {"id": 300, "category_id": thing["category_id"], "bbox": [x, y, w, h], "iscrowd": 0, "area": w * h},
            {"id": 70000, "category_id": 99, "bbox": [0, 0, image["width"], image["height"]], "iscrowd": 0, "area": 9},
        ]
        annotations.append({"image_id": image["id"], "file_name": name, "segments_info": segments})
    categories = [*coco["categories"], {"id": 99, "name": "floor-other-merged", "isthing": 0}]
    content = {"images": coco["images"], "annotations": annotations, "categories": categories}
    return squares.dump("panoptic.json", content), content, folder


def with_twins(squares) -> str:
    """The first image gets a second red square and a crowd of blue ones."""
    content = json.loads(squares.instances.read_text())
    first = content["annotations"][0]
    content["annotations"] += [
        {**first, "id": 50, "bbox": [0, 0, 5, 5]},
        {**first, "id": 51, "category_id": 8, "iscrowd": 1, "bbox": [5, 5, 5, 5]},
        {**first, "id": 52, "category_id": 7, "bbox": [9, 9, 4, 4], "segmentation": [[9, 9, 13, 9, 13, 13, 9, 13]]},
    ]
    return squares.dump("i.json", content)


@pytest.mark.parametrize("task", ["region", "dense"])
def test_every_object_is_described_by_its_category(squares, task):
    report = ReadReport()
    rows = read_coco_objects(with_twins(squares), squares.images, task=task, report=report)
    assert rows.features == GROUNDED_FEATURES
    assert {row["task"] for row in rows} == {task}
    assert [(p["target"], p["context"]) for p in rows[0]["prompts"]] == [
        (name, "an object of ") for name in ("red", "red", "green")
    ]
    assert rows[0]["prompts"][0]["box"] == squares.boxes[0]
    assert report.dropped == {"crowd": 1}
    assert report.read == {"images": 4, "annotations": 7}


def test_a_name_refers_where_it_fits_one_object_alone(squares):
    report = ReadReport()
    rows = read_coco_objects(with_twins(squares), squares.images, task="segment", report=report)
    assert [prompt["target"] for prompt in rows[0]["prompts"]] == ["green"]
    assert rows[0]["prompts"][0]["context"] == "where is green"
    assert decode_rle(rows[0]["prompts"][0]["mask"]).sum() == 16
    assert report.dropped == {"ambiguous name": 2, "crowd": 1}


def test_an_image_without_objects_is_left_out_even_where_mistakes_are_raised(squares):
    content = json.loads(squares.instances.read_text())
    content["annotations"] = content["annotations"][1:]
    report = ReadReport()
    assert len(read_coco_objects(squares.dump("i.json", content), squares.images, report=report)) == 3
    assert report.dropped == {"image without objects": 1}


def test_segments_are_things_and_stuff_with_their_masks(squares, panoptic):
    path, _, _ = panoptic
    rows = read_coco_panoptic(path, squares.images, task="segment")
    assert rows.features == GROUNDED_FEATURES
    for row, box in zip(rows, squares.boxes, strict=True):
        square, floor = row["prompts"]
        x0, y0, x1, y1 = (int(side) for side in box)
        expected = np.zeros((row["height"], row["width"]), bool)
        expected[y0:y1, x0:x1] = True
        np.testing.assert_array_equal(decode_rle(square["mask"]), expected)
        np.testing.assert_array_equal(decode_rle(floor["mask"]), ~expected)
        assert floor["target"] == "floor"


def test_segments_can_be_described_without_their_masks(squares, panoptic):
    path, _, folder = panoptic
    for file in folder.iterdir():
        file.unlink()
    rows = read_coco_panoptic(path, squares.images, task="dense")
    assert [prompt["target"] for prompt in rows[0]["prompts"]] == ["red", "floor"]


def test_the_png_folder_may_lie_elsewhere_but_must_exist(squares, panoptic):
    path, _, folder = panoptic
    folder.rename(squares.folder / "ids")
    with pytest.raises(FileNotFoundError, match="segments="):
        read_coco_panoptic(path, squares.images, task="segment")
    assert len(read_coco_panoptic(path, squares.images, task="segment", segments=squares.folder / "ids")) == 4


@pytest.mark.parametrize(
    ("spoil", "dropped"),
    [
        (lambda c, f: c["annotations"][0].pop("segments_info"), {"missing key": 1}),
        (lambda c, f: c["annotations"][0].update(segments_info={}), {"malformed record": 1}),
        (lambda c, f: c["annotations"][0]["segments_info"][0].pop("bbox"), {"missing key": 1}),
        (lambda c, f: c["annotations"][0]["segments_info"][0].update(id=5), {"malformed mask": 1}),
        (lambda c, f: c["annotations"][0]["segments_info"][0].update(category_id=1), {"unknown category": 1}),
        (
            lambda c, f: (f / "000000000001.png").write_bytes(b"x"),
            {"unreadable segments": 2, "image without objects": 1},
        ),
        (lambda c, f: (f / "000000000001.png").unlink(), {"unreadable segments": 2, "image without objects": 1}),
        (
            lambda c, f: Image.new("RGB", (3, 3)).save(f / "000000000001.png"),
            {"mask of another size": 2, "image without objects": 1},
        ),
    ],
)
def test_a_bad_panoptic_record_is_counted_by_reason(squares, panoptic, spoil, dropped):
    _, content, folder = panoptic
    spoil(content, folder)
    path, report = squares.dump("panoptic.json", content), ReadReport()
    with pytest.raises(BadRecordError, match=r"panoptic\.json, annotation 0"):
        read_coco_panoptic(path, squares.images, task="segment")
    rows = read_coco_panoptic(path, squares.images, task="segment", on_error="skip", report=report)
    assert report.dropped == dropped
    assert len(rows) in (3, 4)


def as_grit(squares) -> dict:
    content = json.loads(squares.instances.read_text())
    for annotation in content["annotations"]:
        del annotation["segmentation"]
        annotation["caption"] = f"square number {annotation['id']}"
    return content


def test_grit_captions_are_found_with_their_boxes_in_the_file_s_order(squares):
    content = as_grit(squares)
    content["annotations"].append({**content["annotations"][0], "id": 3, "caption": "the same again "})
    path = squares.dump("g.json", content)
    rows = read_grit_captions(path, squares.images)
    assert rows.features == GROUNDED_FEATURES
    assert [prompt["target"] for prompt in rows[0]["prompts"]] == ["square number 11", "the same again"]
    assert (rows[0]["task"], rows[0]["prompts"][0]["box"]) == ("dense", squares.boxes[0])
    assert read_grit_captions(path, squares.images, task="region")[0]["task"] == "region"


def test_a_bad_grit_caption_leaves_the_others(squares):
    content = as_grit(squares)
    good = content["annotations"][0]
    content["annotations"] += [{**good, "caption": ""}, {**good, "bbox": [0, 0, -1, 2]}]
    del content["annotations"][1]["caption"]
    path, report = squares.dump("g.json", content), ReadReport()
    rows = read_grit_captions(path, squares.images, on_error="skip", report=report)
    assert [len(row["prompts"]) for row in rows] == [1, 1, 1]
    assert report.dropped == {"empty text": 1, "box without area": 1, "missing key": 1, "no regions": 1}
    with pytest.raises(BadRecordError, match=r"g\.json, annotation"):
        read_grit_captions(path, squares.images)


def questions(squares, annotations: list[dict], names: list[str], **options) -> list[dict]:
    coco = json.loads(squares.instances.read_text())
    coco["annotations"], coco["categories"] = annotations, [{"id": k, "name": name} for k, name in enumerate(names)]
    rows = read_coco_objects(squares.dump("parts.json", coco), squares.images, task="reason", **options)
    return [prompt for row in rows for prompt in row["prompts"]]


def thing(category: int, x: int, **more) -> dict:
    ring = [x, 4, x + 6, 4, x + 6, 12, x, 12]
    return {"image_id": 1, "category_id": category, "bbox": [x, 4, 6, 8], "segmentation": [ring], **more}


def test_questions_about_names_have_one_mask_for_all_objects_of_a_name(squares):
    names = ["trash_can:lid", "dog_(animal)", "wall-other-merged", "bus", "car"]
    asked = questions(squares, [thing(k, 5 * k) for k in range(5)] + [thing(1, 40)], names)
    targets = {target["name"]: target for prompt in asked for target in prompt["targets"]}
    assert set(targets) == {"lid of the trash can", "dog", "wall", "bus", "car"}
    assert targets["dog"]["box"] == [5, 4, 46, 12] and decode_rle(targets["dog"]["mask"]).sum() == 96
    assert all(len(prompt["targets"]) <= 3 for prompt in asked)
    for prompt in asked:
        assert all(target["name"] in prompt["context"] for target in prompt["targets"])
        assert prompt["target"].count("{seg}") == len(prompt["targets"])


def test_a_name_of_which_something_is_unknown_asks_for_nothing(squares):
    report = ReadReport()
    objects = [thing(0, 4), thing(0, 20, iscrowd=1), thing(1, 30), thing(2, 40, segmentation=None)]
    asked = questions(squares, objects, ["cat", "dog", "cow"], on_error="skip", report=report)
    assert [target["name"] for prompt in asked for target in prompt["targets"]] == ["dog"]
    assert report.dropped["crowd"] == 1 and report.dropped["missing mask"] == 1
    with pytest.raises(BadRecordError, match="'cow' has no mask"):
        questions(squares, objects, ["cat", "dog", "cow"])


def test_segments_are_asked_about_with_their_masks(squares, panoptic):
    path, _, _ = panoptic
    rows = read_coco_panoptic(path, squares.images, task="reason")
    assert len(rows) == 4 and all(
        target["mask"] for row in rows for prompt in row["prompts"] for target in prompt["targets"]
    )
