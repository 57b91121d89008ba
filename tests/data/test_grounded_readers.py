"""Visual Genome, COCO captions and COCO instances."""

from __future__ import annotations

import json

import pytest
import torch

from pixelllm_hf.data.coco_captions import read_coco_captions
from pixelllm_hf.data.coco_instances import LabelGridCollator, read_coco_instances
from pixelllm_hf.data.grounded_examples import GROUNDED_FEATURES, BadRecordError, ReadReport
from pixelllm_hf.data.image_transforms import Augmentation
from pixelllm_hf.data.visual_genome import read_visual_genome
from pixelllm_hf.processing.mask_codec import encode_rle, polygons_to_mask


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


def test_objects_come_with_names_boxes_and_masks(squares):
    rows = read_coco_instances(squares.instances, squares.images)
    category = rows.features["objects"].feature["category"]
    assert category.names == ["red", "green", "blue", "yellow"]
    thing = rows[2]["objects"][0]
    assert category.int2str(thing["category"]) == "blue"
    assert thing["box"] == squares.boxes[2]


@pytest.mark.parametrize("form", ["polygon", "compressed", "counts", "box"])
def test_a_label_grid_shows_the_object_where_it_is(squares, form):
    content = json.loads(squares.instances.read_text())
    for annotation, image in zip(content["annotations"], content["images"], strict=True):
        if form in ("compressed", "counts"):
            mask = polygons_to_mask(annotation["segmentation"], (image["height"], image["width"]))
            annotation["segmentation"] = encode_rle(mask, compressed=form == "compressed")
        elif form == "box":
            del annotation["segmentation"]
    rows = read_coco_instances(squares.dump("i.json", content), squares.images)
    batch = LabelGridCollator(image_size=64, grid_size=16, num_categories=4)(list(rows))
    lit = batch["pixel_values"].amax(1)[:, 2::4, 2::4] > 100
    differing = torch.logical_xor(batch["grid_labels"] > 0, lit).flatten(1).sum(1)
    assert differing.max() <= 5  # one side of the square, whose outline may run through the centres
    assert batch["grid_labels"][1].unique().tolist() == [-100, 0, 2]
    assert torch.equal(batch["grid_labels"] == -100, ~batch["pixel_mask"][:, 2::4, 2::4])
    assert batch["class_labels"].tolist() == torch.eye(4).tolist()
    expected = torch.tensor(squares.boxes[0]) / torch.tensor([60.0, 40.0, 60.0, 40.0])
    torch.testing.assert_close(batch["grid_boxes"][0][batch["grid_labels"][0] > 0][0], expected)


def test_a_label_grid_is_mirrored_with_its_picture(squares):
    rows = list(read_coco_instances(squares.instances, squares.images))
    batch = LabelGridCollator(image_size=64, grid_size=16, num_categories=4, augmentation=Augmentation(flip=1.0))(rows)
    lit = batch["pixel_values"].amax(1)[:, 2::4, 2::4] > 100
    assert torch.logical_xor(batch["grid_labels"] > 0, lit).flatten(1).sum(1).max() <= 5


def test_a_mask_of_another_size_is_refused(squares):
    content = json.loads(squares.instances.read_text())
    content["annotations"][1]["segmentation"] = {"size": [7, 9], "counts": [63]}
    with pytest.raises(BadRecordError, match="mask is for height, width"):
        read_coco_instances(squares.dump("i.json", content), squares.images)
