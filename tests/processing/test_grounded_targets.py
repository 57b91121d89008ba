from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from pixelllm_hf.processing.dataset_exports import yolo_classes, yolo_labels
from pixelllm_hf.processing.draw_objects import OBJECT_COLOURS
from pixelllm_hf.processing.grounded_results import GroundedCaption, GroundedTarget, draw_results
from pixelllm_hf.processing.grounded_targets import objects_of
from pixelllm_hf.processing.result_exports import coco_annotations, coco_results, labelme_record
from pixelllm_hf.processing.result_html import result_html

SIZE = (64, 48)
TEXT = "A cup for the coffee and a plate."


def filled(x0, y0, x1, y1):
    mask = np.zeros(SIZE[::-1], bool)
    mask[y0:y1, x0:x1] = True
    return mask


CUP = GroundedTarget(2, 5, mask=filled(4, 6, 20, 30), mask_score=0.75)
PLATE = GroundedTarget(27, 32, (30.0, 20.0, 60.0, 44.0), 0.5, filled(30, 20, 60, 44), 0.25)
TWO = GroundedCaption(TEXT, (), SIZE, score=0.9, targets=(CUP, PLATE))
ONE = GroundedCaption("a dog", (), SIZE, box=(1.0, 2.0, 30.0, 40.0), box_score=0.5)


def test_an_answer_survives_json_with_all_its_targets():
    record = json.loads(json.dumps(TWO.to_dict()))
    assert GroundedCaption.from_dict(record) == TWO
    assert [record["text"][t["start"] : t["end"]] for t in record["targets"]] == ["cup", "plate"]
    assert set(record["targets"][0]["mask"]) == {"size", "counts"} and record["targets"][1]["box"] == [30, 20, 60, 44]
    assert record["box"] is record["mask"] is record["box_score"] is record["mask_score"] is None
    assert GroundedCaption.from_dict(record | {"targets": record["targets"][:1]}) != TWO


def test_one_box_or_mask_is_the_case_of_one_target():
    assert ONE.targets == (GroundedTarget(0, 5, (1.0, 2.0, 30.0, 40.0), 0.5),)
    assert replace(GroundedCaption("a dog", (), SIZE), box=ONE.box, box_score=0.5) == ONE
    single = GroundedCaption(TEXT, (), SIZE, targets=(CUP,))
    assert single.mask is CUP.mask and single.mask_score == 0.75 and single.box is None
    assert TWO.box is TWO.mask is TWO.mask_score is TWO.box_score is None
    record = ONE.to_dict()
    assert record["box"] == record["targets"][0]["box"] and record["box_score"] == 0.5
    with pytest.raises(ValueError, match="only target"):
        GroundedCaption(TEXT, (), SIZE, box=(1.0, 2.0, 3.0, 4.0), targets=(CUP,))


def test_records_of_before_are_read_and_records_at_odds_are_refused():
    record = ONE.to_dict()
    older = {name: value for name, value in record.items() if name != "targets"}
    assert GroundedCaption.from_dict(older) == ONE
    with pytest.raises(ValueError, match="must be those of its only target"):
        GroundedCaption.from_dict(record | {"box": [1, 1, 2, 2]})
    with pytest.raises(ValueError, match="must be those of its only target"):
        GroundedCaption.from_dict(TWO.to_dict() | {"box": [1, 1, 2, 2]})
    with pytest.raises(ValueError, match="GroundedTarget has no colour"):
        GroundedCaption.from_dict(TWO.to_dict() | {"targets": [{"start": 0, "end": 1, "colour": 2}]})


def test_targets_compare_by_their_masks_too():
    assert replace(CUP, mask=CUP.mask.copy()) == CUP and hash(replace(CUP, mask=CUP.mask.copy())) == hash(CUP)
    assert replace(CUP, mask=~CUP.mask) != CUP and replace(CUP, mask=None) != CUP
    with pytest.raises(ValueError, match="height and width"):
        GroundedCaption("", (), (9, 9), targets=(CUP,))


def test_every_target_is_an_object_under_the_words_that_name_it():
    cup, plate = objects_of(TWO)
    assert (cup.text, plate.text) == ("cup", "plate")
    assert cup.location is None and cup.bounds == (4, 6, 20, 30) and cup.score == 0.75
    assert plate.bounds == PLATE.box and plate.score == 0.5
    (asked,) = objects_of(GroundedCaption("a dog", (), SIZE, score=0.25, prompt_box=(1.0, 2.0, 3.0, 4.0)))
    assert asked.location == (1, 2, 3, 4) and asked.score == 0.25
    (nothing,) = objects_of(GroundedCaption("a dog", (), SIZE))
    assert not nothing.is_placed


def test_every_export_has_every_target():
    lines = coco_results([[TWO, ONE]], [7])
    assert [line["text"] for line in lines] == ["cup", "plate", "a dog"]
    assert [line["bbox"] for line in lines] == [[4, 6, 16, 24], [30, 20, 30, 24], [1, 2, 29, 38]]
    with pytest.raises(ValueError, match="has 2. Take coco_results"):
        TWO.to_coco(7)
    assert ONE.to_coco(7) == lines[2]
    annotations = coco_annotations([[TWO, ONE]], [7], ["a.jpg"])["annotations"]
    assert [(a["id"], a["caption"], a.get("score")) for a in annotations] == [
        (1, "cup", 0.75),
        (2, "plate", 0.5),
        (3, "a dog", 0.5),
    ]
    shapes = labelme_record([TWO, ONE], "a.jpg", image_size=SIZE)["shapes"]
    assert [(s["label"], s["shape_type"]) for s in shapes] == [
        ("cup", "polygon"),
        ("plate", "polygon"),
        ("a dog", "rectangle"),
    ]
    assert yolo_classes([[TWO]]) == ["cup", "plate"] and len(yolo_labels([TWO], ["cup", "plate"], image_size=SIZE)) == 2
    page = result_html(TWO)
    assert page.count("<polygon") == 2 and "cup" in page and "mask 384 pixels" in page and "mask 720 pixels" in page


def test_every_target_is_drawn_in_its_colour():
    image = Image.new("RGB", SIZE, "white")
    drawn = TWO.draw(image)
    # The same drawing, but for what stands below it: the answer with its phrases, or the list of objects.
    shown = round(drawn.width * SIZE[1] / SIZE[0])
    assert np.array_equal(np.asarray(drawn)[:shown], np.asarray(draw_results(image, [TWO]))[:shown])
    pixels = np.asarray(drawn)[:shown].reshape(-1, 3).astype(int)
    for colour in OBJECT_COLOURS[:2]:
        assert (np.abs(pixels - colour).max(1) < 12).any()
