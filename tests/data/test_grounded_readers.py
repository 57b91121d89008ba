"""Visual Genome, COCO captions and COCO instances."""

from __future__ import annotations

import json

import pytest

from pixelllm_hf.data.bad_records import BadRecordError, ReadReport
from pixelllm_hf.data.coco_captions import read_coco_captions
from pixelllm_hf.data.coco_instances import read_coco_instances
from pixelllm_hf.data.formats import read_format
from pixelllm_hf.data.grounded_examples import GROUNDED_FEATURES
from pixelllm_hf.data.parquet_shards import prepare_format
from pixelllm_hf.data.prepared_folder import PreparedFolderError
from pixelllm_hf.data.visual_genome import read_visual_genome
from pixelllm_hf.evaluation.row_images import read_captioned
from pixelllm_hf.evaluation.scene_folder import DataFolder


def test_a_region_s_box_is_the_prompt_and_its_phrase_the_target(squares):
    rows = read_visual_genome(squares.regions, squares.image_data, squares.images)
    assert rows.features == GROUNDED_FEATURES
    assert [row["prompts"][0]["box"] for row in rows] == squares.boxes
    assert rows[1]["prompts"][0]["target"] == "a green square"
    assert rows[1]["prompts"][0]["context"] == "an object of "
    assert rows[1]["prompts"][0]["text_loss"] and not rows[1]["prompts"][0]["point_loss"]


def test_bad_regions_are_dropped_without_their_neighbours(squares):
    content = json.loads(squares.regions.read_text())
    good = content[0]["regions"][0]
    content[0]["regions"] += [{**good, "width": 0}, {**good, "x": 1000}, {**good, "phrase": " "}, {"phrase": "no box"}]
    content[1]["regions"] = []
    path = squares.dump("bad.json", content)
    report = ReadReport()
    rows = read_visual_genome(path, squares.image_data, squares.images, on_error="skip", report=report)
    assert [len(row["prompts"]) for row in rows] == [1, 1, 1]
    assert report.dropped == {"box without area": 2, "empty text": 1, "missing key": 1, "no regions": 1}
    with pytest.raises(BadRecordError, match=r"bad\.json, record 0 \(image 1\), region 1"):
        read_visual_genome(path, squares.image_data, squares.images)


def test_dense_rows_hold_the_regions_to_find(squares):
    rows = read_visual_genome(squares.regions, squares.image_data, squares.images, task="dense")
    assert rows.features == GROUNDED_FEATURES
    assert set(rows["task"][:]) == {"dense"}
    asked = read_visual_genome(squares.regions, squares.image_data, squares.images)
    assert rows["prompts"][:] == asked["prompts"][:]


def test_wrong_types_in_visual_genome_are_dropped_records(squares):
    regions, about = (json.loads(path.read_text()) for path in (squares.regions, squares.image_data))
    regions[0]["id"] = [1]
    regions[1]["regions"] = "none"
    about[2]["width"] = "60"
    del about[3]["image_id"]
    paths = squares.dump("r.json", regions), squares.dump("i.json", about)
    report = ReadReport()
    assert len(read_visual_genome(*paths, squares.images, on_error="skip", report=report)) == 0
    assert report.dropped == {"malformed record": 2, "malformed size": 1, "missing key": 1, "missing image": 1}


def test_a_file_cut_short_is_named(squares):
    squares.regions.write_text(squares.regions.read_text()[:-20])
    with pytest.raises(ValueError, match=r"regions\.json is not JSON"):
        read_visual_genome(squares.regions, squares.image_data, squares.images)


def test_captions_ask_about_the_whole_image(squares):
    rows = read_coco_captions(squares.captions, squares.images)
    assert [row["prompts"][0]["target"] for row in rows][:2] == ["one red square", "one green square"]
    assert all(row["prompts"][0]["box"] is None for row in rows)


def test_images_without_captions_are_counted(squares):
    content = json.loads(squares.captions.read_text())
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] != 2]
    report = ReadReport()
    rows = read_coco_captions(squares.dump("c.json", content), squares.images, on_error="skip", report=report)
    assert len(rows) == 3
    assert report.dropped == {"no captions": 1}


def test_captions_and_objects_of_an_image_are_one_row(squares):
    content = json.loads(squares.instances.read_text())
    content["annotations"] += [
        {**content["annotations"][0], "id": 90, "bbox": [0, 0, 9, 9], "category_id": 7},
        {**content["annotations"][0], "id": 91, "iscrowd": 1},
        {**content["annotations"][0], "id": 92, "bbox": [99, 99, 1, 1]},
    ]
    content["images"][1]["width"] += 1
    del content["images"][2]
    path, report = squares.dump("i.json", content), ReadReport()
    options = {"companion": path, "on_error": "skip", "report": report}
    rows = read_format("coco_captions", squares.captions, squares.images, **options)
    assert rows["image_id"][:] == ["1", "3", "4"]
    assert [(p["target"], p["box"], p["context"]) for p in rows[0]["prompts"]] == [
        ("one red square", None, None),
        ("red", squares.boxes[0], "an object of "),
        ("green", [0, 0, 9, 9], "an object of "),
    ]
    assert [p["target"] for p in rows[1]["prompts"]] == ["one blue square"]
    assert report.dropped == {
        "missing image": 1,  # an object of the image that is gone
        "crowd": 1,
        "box without area": 1,
        "two sizes": 1,
        "captions without objects": 1,
    }
    with pytest.raises(BadRecordError, match=r"i\.json, annotation"):
        read_format("coco_captions", squares.captions, squares.images, companion=path)


def test_objects_beside_captions_are_no_captions_to_compare_with(squares, tmp_path):
    options = {"companion": squares.instances, "rows_per_shard": 9}
    prepare_format("coco_captions", squares.captions, squares.images, tmp_path / "out", **options)
    images = read_captioned(DataFolder(tmp_path / "out"))
    assert [image.captions for image in images][:2] == [("one red square",), ("one green square",)]


def test_objects_come_with_names_boxes_and_masks(squares):
    rows = read_coco_instances(squares.instances, squares.images)
    category = rows.features["objects"].feature["category"]
    assert category.names == ["red", "green", "blue", "yellow"]
    thing = rows[2]["objects"][0]
    assert category.int2str(thing["category"]) == "blue"
    assert thing["box"] == squares.boxes[2]


def test_a_mask_of_another_size_is_refused(squares):
    content = json.loads(squares.instances.read_text())
    content["annotations"][1]["segmentation"] = {"size": [7, 9], "counts": [63]}
    with pytest.raises(BadRecordError, match="mask is for height, width"):
        read_coco_instances(squares.dump("i.json", content), squares.images)


def test_rows_read_for_evaluation_keep_what_cannot_be_learnt_from(squares):
    content = json.loads(squares.regions.read_text())
    good = content[0]["regions"][0]
    content[0]["regions"] += [{**good, "width": 0}, {**good, "x": -5, "phrase": " "}]
    content[1]["regions"] = []
    paths = squares.dump("odd.json", content), squares.image_data
    rows = read_format("visual_genome", paths[0], squares.images, companion=paths[1], for_evaluation=True)
    assert [len(row["prompts"]) for row in rows] == [3, 0, 1, 1]
    flat, left = rows[0]["prompts"][1:]
    assert flat["annotation_box"][2] == 0 and left["target"] == ""
    assert left["annotation_box"][0] == -5 and left["box"][0] == 0, "as annotated, and within the image"
    learnt = read_format("visual_genome", squares.regions, squares.images, companion=paths[1])
    assert all(
        row["prompts"][0]["annotation_box"][2:] == [w - x, h - y]
        for row in learnt
        for x, y, w, h in [row["prompts"][0]["box"]]
    )


def test_crowds_are_among_the_objects_to_find_for_evaluation_alone(squares):
    content = json.loads(squares.instances.read_text())
    content["annotations"][0]["iscrowd"] = 1
    path = squares.dump("crowd.json", content)
    rows = read_format("coco_instances", path, squares.images, task="dense", for_evaluation=True)
    assert [prompt["crowd"] for row in rows for prompt in row["prompts"]] == [True, False, False, False]
    assert len(read_format("coco_instances", path, squares.images, task="dense")) == 3


def test_a_folder_prepared_for_evaluation_is_refused_for_training(squares, tmp_path):
    content = json.loads(squares.instances.read_text())
    content["annotations"][0]["iscrowd"] = 1
    path = squares.dump("crowd.json", content)
    prepare_format("coco_instances", path, squares.images, tmp_path / "out", task="dense", for_evaluation=True)
    with pytest.raises(PreparedFolderError, match="prepared for evaluation"):
        read_format("prepared", tmp_path / "out")
    rows = read_format("prepared", tmp_path / "out", for_evaluation=True)
    assert sum(prompt["crowd"] for row in rows for prompt in row["prompts"]) == 1
