from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from pixelllm_hf.data import AnnotationFileError, BadRecordError, ReadReport, prepare_format, read_format, read_prepared
from pixelllm_hf.processing.mask_codec import decode_rle

SQUARE = [[4, 4], [20, 4], [20, 20], [4, 20]]
HOLE = [[8.7, 8.2], [12.9, 8], [12, 12], [8, 12]]
RECORD = {
    "text": ["What could one sit on?", "Where is it soft?"],
    "is_sentence": True,
    "shapes": [
        {"label": "ignore", "shape_type": "polygon", "points": HOLE},
        {"label": "target", "shape_type": "polygon", "points": SQUARE},
        {"label": "flag", "shape_type": "point", "points": [[1, 1]]},
    ],
}


@pytest.fixture
def folder(tmp_path):
    for split, name in (("train", "1"), ("train", "2"), ("val", "3")):
        (tmp_path / split).mkdir(exist_ok=True)
        Image.new("RGB", (40, 30)).save(tmp_path / split / f"{name}.jpg")
        (tmp_path / split / f"{name}.json").write_text(json.dumps(RECORD))
    return tmp_path


def read(folder, **options):
    return read_format("reason_seg", folder, folder, **options)


def write(folder, **values):
    (folder / "train" / "1.json").write_text(json.dumps({**RECORD, **values}))


def test_every_sentence_is_a_prompt_about_the_one_target_of_its_image(folder):
    rows = read(folder)
    assert [(row["image_id"], row["task"], row["width"], row["height"]) for row in rows][2] == ("3", "reason", 40, 30)
    first, second = rows[0]["prompts"]
    assert [first["context"], second["context"]] == RECORD["text"]
    assert first["target"].count("{seg}") == 1 and first["targets"] == second["targets"]


def test_the_smaller_polygon_lies_over_the_larger_and_outlines_are_inside(folder):
    target = read(folder)[0]["prompts"][0]["targets"][0]
    mask, ignored = decode_rle(target["mask"]), decode_rle(target["ignored"])
    inside, hole = np.zeros((30, 40), bool), np.zeros((30, 40), bool)
    inside[4:21, 4:21], hole[8:13, 8:13] = True, True
    assert np.array_equal(ignored, hole) and np.array_equal(mask, inside & ~hole)
    assert target["box"] == [4, 4, 21, 21]


def test_the_larger_polygon_does_not_cover_an_earlier_smaller_target(folder):
    write(folder, shapes=[{"label": "target", "points": HOLE}, {"label": "ignored area", "points": SQUARE}])
    target = read(folder)[0]["prompts"][0]["targets"][0]
    assert decode_rle(target["mask"]).sum() == 25 and decode_rle(target["ignored"]).sum() == 17 * 17 - 25


def test_without_an_ignored_region_there_is_none(folder):
    write(folder, shapes=[{"label": "target", "points": SQUARE}])
    assert read(folder)[0]["prompts"][0]["targets"][0]["ignored"] is None


def test_a_phrase_is_asked_for_as_a_question(folder):
    write(folder, text=["the soft thing"], is_sentence=False)
    assert read(folder)[0]["prompts"][0]["context"] == "What is the soft thing in this image?"


def test_a_split_is_a_folder_and_explanations_are_none(folder):
    (folder / "explanatory").mkdir()
    (folder / "explanatory" / "train.json").write_text("[]")
    assert [row["image_id"] for row in read(folder, split="val")] == ["3"]
    assert len(read(folder)) == 3
    with pytest.raises(AnnotationFileError, match="it has train, val"):
        read(folder, split="explanatory")
    assert len(read_format("reason_seg", folder / "train", folder / "train")) == 2
    with pytest.raises(AnnotationFileError, match="no JSON file"):
        read_format("reason_seg", folder / "explanatory" / "x", folder)


def test_an_explained_image_is_asked_why_too(folder):
    (folder / "explanatory").mkdir()
    items = [{"image": "2.jpg", "query": "?", "outputs": "It is a sofa."}, {"image": "3.jpg", "outputs": "a {seg}"}]
    (folder / "explanatory" / "train.json").write_text(json.dumps(items))
    report = ReadReport()
    rows = read(folder, on_error="skip", report=report)
    assert [len(row["prompts"]) for row in rows] == [2, 4, 2]
    why = rows[1]["prompts"][1]
    assert why["context"].endswith("Please explain why.") and why["target"].endswith("It is a sofa.")
    assert why["target"].count("{seg}") == 1 and dict(report.dropped) == {"malformed text": 1}


def test_texts_in_the_encoding_of_some_released_files_are_read(folder):
    raw = json.dumps({**RECORD, "text": ["Where’s the café?"]}, ensure_ascii=False)
    for encoding in ("cp1252", "utf-8"):
        (folder / "train" / "1.json").write_bytes(raw.encode(encoding))
        assert read(folder)[0]["prompts"][0]["context"] == "Where’s the café?"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"text": "What?"}, "text must be a list"),
        ({"text": [None]}, "a question must be a string"),
        ({"text": [" "]}, "is empty"),
        ({"shapes": None}, "shapes must be a list"),
        ({"shapes": [{"label": "target"}]}, "no 'points'"),
        ({"shapes": [{"label": 3, "points": SQUARE}]}, "label must be a string"),
        ({"shapes": [{"label": "target", "points": SQUARE[:2]}]}, "three pairs"),
        ({"shapes": [{"label": "target", "points": [4, 5, 6]}]}, "three pairs"),
        ({"shapes": [{"label": "target", "points": [[1, 2, 3], *SQUARE]}]}, "three pairs"),
        ({"shapes": [{"label": "target", "points": [["1", 2], *SQUARE]}]}, "three pairs"),
        ({"shapes": [{"label": "target", "points": [[1e9, 2], *SQUARE]}]}, "far outside"),
        ({"shapes": [{"label": "ignore", "points": SQUARE}]}, "no polygon of the target"),
        ({"is_sentence": "yes"}, "is_sentence must be 0 or 1"),
    ],
)
def test_every_kind_of_bad_record_is_named_and_costs_no_other_image(folder, values, message):
    write(folder, **values)
    with pytest.raises(BadRecordError, match=message):
        list(read(folder))
    assert len(read(folder, on_error="skip")) == 2


def test_damaged_files_and_images_cost_themselves_alone(folder):
    (folder / "train" / "1.json").write_text('{"text": ["cut')
    (folder / "train" / "2.jpg").write_bytes(b"no image")
    report = ReadReport()
    assert [row["image_id"] for row in read(folder, on_error="skip", report=report)] == ["3"]
    assert dict(report.dropped) == {"not JSON": 1, "unreadable image": 1}
    (folder / "val" / "3.jpg").unlink()
    assert len(read(folder, on_error="skip")) == 0


def test_a_bad_polygon_costs_itself_alone(folder):
    write(folder, shapes=[{"label": "target", "points": SQUARE}, {"label": "target", "points": [[1, 2]]}])
    report = ReadReport()
    assert len(read(folder, split="train", on_error="skip", report=report)) == 2
    assert dict(report.dropped) == {"malformed polygon": 1}


def test_the_rows_are_prepared_and_come_back_with_their_ignored_pixels(folder, tmp_path):
    prepare_format("reason_seg", folder, folder, tmp_path / "out", split="train")
    back = read_prepared(tmp_path / "out", cache_dir=tmp_path / "cache")
    assert [row["prompts"] for row in back] == [row["prompts"] for row in read(folder, split="train")]
