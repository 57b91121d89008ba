"""Images that nobody has annotated, labelled by a detector."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pixelllm_hf.data.coco_instances import read_coco_instances
from pixelllm_hf.evaluation.labelling import image_files, labelled
from pixelllm_hf.evaluation.object_detector import Detection, ObjectDetector
from pixelllm_hf.evaluation.picodet import CANVAS, decoded


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for name, size in (("a.png", (40, 20)), ("b.jpg", (20, 20)), ("notes.txt", None)):
        if size is None:
            (tmp_path / name).write_text("no image")
        else:
            Image.new("RGB", size).save(tmp_path / name)
    return tmp_path


def detect(image: Image.Image) -> list[Detection]:
    return [Detection("dog", 0.75, (0.25, 0.5, 0.75, 1.0))] if image.width > image.height else []


def test_labels_are_read_back_as_the_objects_that_were_found(images: Path):
    content = labelled(image_files(images, None), detect)
    file = images / "instances.json"
    file.write_text(json.dumps(content))
    wide, square = list(read_coco_instances(file, images))
    (found,) = wide["objects"]
    assert found["box"] == [10, 10, 30, 20] and square["objects"] == []
    assert content["annotations"][0]["score"] == 0.75 and content["annotations"][0]["area"] == 200


def test_only_images_are_labelled_and_of_these_the_named_ones(images: Path):
    assert [path.name for path in image_files(images, None)] == ["a.png", "b.jpg"]
    assert [path.name for path in image_files(images, ["b", "c"])] == ["b.jpg"]
    assert [path.name for path in image_files(images, ["a.png"])] == ["a.png"]


def test_distances_are_expectations_in_strides_from_the_middle_of_a_cell():
    cells = CANVAS // 32
    sides, classes = np.full((1, cells**2, 32), -50, np.float32), np.zeros((1, cells**2, 80), np.float32)
    chosen = 2 * cells + 3  # column 3 of row 2
    for side, strides in enumerate((1, 2, 3, 4)):
        sides[0, chosen, 8 * side + strides] = 50
    classes[0, chosen, 16] = 0.7
    row = decoded(32, classes, sides)[0, chosen]
    expected = torch.tensor([3.5 - 1, 2.5 - 2, 3.5 + 3, 2.5 + 4]) * 32 / CANVAS
    torch.testing.assert_close(row[:4], expected)
    assert row[4] == 1 and row[5 + 16] == pytest.approx(0.7)


def test_a_detectors_boxes_are_shares_of_the_image_without_its_padding():
    def answer(pixels: torch.Tensor) -> torch.Tensor:
        row = torch.zeros(1, 1, 85)
        row[0, 0, :5] = torch.tensor([0.0, 0.0, 0.5, 0.25, 1.0])
        row[0, 0, 5] = 0.9
        return row

    (found,) = ObjectDetector(answer, canvas=64).detect(Image.new("RGB", (64, 32)))
    assert found.name == "person" and found.box == pytest.approx((0.0, 0.0, 0.5, 0.5))
