"""Values are checked before they are used, in every reader."""

from __future__ import annotations

import json

import pytest

from pixelllm_hf.data import AnnotationFileError, BadRecordError, ReadReport, read_coco_instances, read_format
from pixelllm_hf.data.record_fields import (
    checked_flag,
    checked_id,
    checked_number,
    checked_text,
    checked_xywh,
    image_size_wh,
    required_one,
    shown,
)
from pixelllm_hf.processing.mask_codec import decode_rle, polygons_to_mask

INF, NAN = float("inf"), float("nan")
DEEP: list = []
for _ in range(5000):
    DEEP = [DEEP]


VALUES = [DEEP, 10**5000, "x" * 10**6, [1] * 10**6, {"a": DEEP}, b"\xff" * 10**5]


def _size_of(value):
    return image_size_wh("here", {"width": value, "height": 9})


@pytest.mark.parametrize(
    ("check", "values"),
    [
        (
            lambda v: checked_text("here", v, "it"),
            [None, 7, b"a", [], "", " ", "\ud800", "\udcff", "x" * 99_999],
        ),
        (lambda v: checked_id("here", v), [None, True, 1.0, [], {}, 2**63, -(2**63) - 1, 10**5000, "", "\ud800", DEEP]),
        (lambda v: checked_number("here", v, "it"), [None, True, "1", NAN, INF, -INF, 10**400, [], DEEP]),
        (lambda v: checked_flag("here", v, "it"), ["0", "false", 2, 0.5, [], NAN]),
        (lambda v: checked_xywh("here", v, (9, 9)), [None, "1234", {}, [1, 1, 5], [1, 1, 0, 5], ["1"] * 4]),
        (lambda v: checked_xywh("here", v, (9, 9)), [[1, 1, NAN, 5], [1, 1, INF, 5], [10**400, 1, 2, 3]]),
        (_size_of, [None, True, "9", 0, -1, 1.5, NAN, INF, 2**31, 1e30, 10**400, DEEP]),
    ],
    ids=["text", "id", "number", "flag", "box", "box of numbers", "size"],
)
def test_a_value_of_another_kind_is_a_bad_record_that_says_where(check, values):
    for value in values:
        with pytest.raises(BadRecordError, match="^here") as caught:
            check(value)
        assert len(str(caught.value)) < 600
        str(caught.value).encode("utf-8")


def test_values_as_files_have_them_pass():
    assert checked_text("here", " a car ", "it") == "a car"
    assert [checked_id("here", value) for value in (7, "0007")] == [7, "0007"]
    assert [checked_flag("here", value, "it") for value in (None, 0, 1, False, True, 1.0)] == [0, 0, 1, 0, 1, 1]
    assert checked_xywh("here", (1, 2, 30, 4), (9, 9)) == [1.0, 2.0, 9, 6.0]
    assert image_size_wh("here", {"width": 640.0, "height": 480}) == (640, 480)
    assert required_one("here", {"id": 5}, "image_id", "id") == 5


@pytest.mark.parametrize("value", VALUES, ids=map(str, range(len(VALUES))))
def test_any_value_is_shown_on_one_line(value):
    assert len(shown(value)) < 500


@pytest.mark.parametrize("name", [None, 7, ["car"], "", "\ud800"])
def test_a_category_without_a_name_is_dropped_with_its_objects(squares, name):
    content = json.loads(squares.instances.read_text())
    content["categories"][1]["name"] = name
    path = squares.dump("i.json", content)
    for read in (read_coco_instances, lambda *a, **k: read_format("coco_instances", *a, **k)):
        report = ReadReport()
        read(path, squares.images, on_error="skip", report=report)
        assert report.dropped["unknown category"] == 1
        assert any("category 1: the name of a category" in first for first in report.first.values())
        with pytest.raises(BadRecordError, match=r"i\.json, category 1"):
            read(path, squares.images)


def test_two_categories_of_one_name_are_one_class(squares):
    content = json.loads(squares.instances.read_text())
    content["categories"][1]["name"] = "red"
    rows = read_coco_instances(squares.dump("i.json", content), squares.images)
    assert rows.features["objects"].feature["category"].names == ["red", "blue", "yellow"]
    assert [row["objects"][0]["category"] for row in rows] == [0, 0, 1, 2]


def test_an_utterance_that_is_no_text_is_refused(squares):
    record = json.loads(squares.narratives.read_text().splitlines()[0])
    record["timed_caption"][0]["utterance"] = None
    with pytest.raises(BadRecordError, match="utterance must be a string"):
        read_format("localized_narratives", squares.dump("n.jsonl", record), squares.images)


def test_a_mouse_that_flies_away_is_refused(squares):
    record = json.loads(squares.narratives.read_text().splitlines()[0])
    record["timed_caption"][-1]["end_time"] = 1e300
    with pytest.raises(BadRecordError, match="images away"):
        read_format("localized_narratives", squares.dump("n.jsonl", record), squares.images)


def test_two_images_of_one_id_are_not_mixed_up(squares):
    content = json.loads(squares.captions.read_text())
    content["images"].insert(1, {**content["images"][1], "id": 1})
    report = ReadReport()
    rows = read_format("coco_captions", squares.dump("c.json", content), squares.images, on_error="skip", report=report)
    assert len(rows) == 4
    assert report.dropped == {"repeated id": 1}


@pytest.mark.parametrize("ring", [[1, 2, 3], [], [None] * 6, "ring", [1e9, 0] * 3])
@pytest.mark.parametrize("name", ["coco_instances", "referring_expressions", "mdetr"])
def test_one_bad_ring_is_dropped_without_its_object(squares, ring, name):
    content = json.loads(squares.instances.read_text())
    good = content["annotations"][0]["segmentation"][0]
    content["annotations"][0]["segmentation"] = [ring, good]
    for image in content["images"]:
        image["caption"] = "the red square"
    path, report = squares.dump("i.json", content), ReadReport()
    files = (squares.refs, path) if name == "referring_expressions" else (path, None)
    options = {"task": "segment", "companion": files[1]}
    rows = read_format(name, files[0], squares.images, on_error="skip", report=report, **options)
    assert report.dropped == {"malformed polygon": 1}
    mask = decode_rle(rows[0]["prompts"][0]["mask"])
    assert (mask == polygons_to_mask([good], mask.shape)).all()
    with pytest.raises(BadRecordError, match="polygon 0"):
        read_format(name, files[0], squares.images, **options)


def test_one_bad_ring_is_no_polygon_of_the_object(squares):
    content = json.loads(squares.instances.read_text())
    content["annotations"][0]["segmentation"].append([1, 2])
    rows = read_coco_instances(squares.dump("i.json", content), squares.images, on_error="skip")
    assert len(rows[0]["objects"][0]["polygons"]) == 1


@pytest.mark.parametrize("split", ["testa", "test", "validation", "", "Train"])
def test_a_split_that_is_not_there_is_an_error_that_names_those_that_are(squares, split):
    with pytest.raises(AnnotationFileError, match="no split .*; it has train, val"):
        read_format(
            "referring_expressions",
            squares.pickled_refs,
            squares.images,
            companion=squares.instances,
            split=split,
            on_error="skip",
        )


def test_a_reference_without_a_split_is_counted_when_one_is_asked_for(squares):
    refs = json.loads(squares.refs.read_text())
    refs[0]["split"] = None
    path, report = squares.dump("r.json", refs), ReadReport()
    options = {"companion": squares.instances, "split": "train", "on_error": "skip", "report": report}
    rows = read_format("referring_expressions", path, squares.images, **options)
    assert rows["image_id"][:] == ["2", "3"]
    assert report.dropped == {"malformed text": 1}
