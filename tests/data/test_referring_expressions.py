from __future__ import annotations

import collections
import json
import pickle
from pathlib import Path

import numpy as np
import pytest

from pixelllm_hf.data.bad_records import BadRecordError, ReadReport
from pixelllm_hf.data.grounded_examples import GROUNDED_FEATURES
from pixelllm_hf.data.plain_pickle import load_plain_pickle
from pixelllm_hf.data.referring_expressions import read_referring_expressions
from pixelllm_hf.processing.mask_codec import decode_rle, encode_rle, polygons_to_mask


class _Runs:
    """Unpickling this would touch a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def test_the_expression_is_question_and_decoder_text_without_text_loss(squares):
    rows = read_referring_expressions(squares.refs, squares.instances, squares.images)
    assert rows.features == GROUNDED_FEATURES
    prompt = rows[0]["prompts"][0]
    assert (prompt["context"], prompt["target"]) == ("where is the red square", "the red square")
    assert prompt["object_box"] == squares.boxes[0]
    assert prompt["box"] is None
    assert prompt["point_loss"] and not prompt["text_loss"]


def test_the_official_pickle_reads_like_the_json(squares):
    from_json = read_referring_expressions(squares.refs, squares.instances, squares.images)
    from_pickle = read_referring_expressions(squares.pickled_refs, squares.instances, squares.images)
    assert from_pickle["prompts"][:] == from_json["prompts"][:]


def test_a_split_is_kept_alone(squares):
    rows = read_referring_expressions(squares.refs, squares.instances, squares.images, split="val")
    assert rows["image_id"][:] == ["4"]


def test_a_pickle_that_would_run_code_is_refused_before_it_runs(tmp_path):
    target, path = tmp_path / "touched", tmp_path / "refs.p"
    path.write_bytes(pickle.dumps([{"ref": _Runs(target)}], protocol=2))
    with pytest.raises(pickle.UnpicklingError, match=r"refs\.p: refused to load"):
        load_plain_pickle(path)
    assert not target.exists()


@pytest.mark.parametrize("value", [collections.OrderedDict(a=1), bytearray(3), print, Path("x")])
def test_anything_but_plain_containers_is_refused_and_named(tmp_path, value):
    path = tmp_path / "refs.p"
    path.write_bytes(pickle.dumps(value, protocol=2))
    with pytest.raises(pickle.UnpicklingError, match="refused to load"):
        load_plain_pickle(path)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_containers_and_scalars_survive(tmp_path, protocol):
    content = [{"a": (1, 2.5, True, None, "ü"), "s": {1, 2}, "f": frozenset({3}), "big": 10**30}]
    path = tmp_path / "refs.p"
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    assert load_plain_pickle(path) == content


def test_a_pickle_cut_short_is_named(tmp_path, squares):
    path = tmp_path / "cut.p"
    path.write_bytes(squares.pickled_refs.read_bytes()[:60])
    with pytest.raises(pickle.UnpicklingError, match=r"cut\.p"):
        load_plain_pickle(path)


def test_bad_references_are_dropped_and_counted(squares):
    refs = json.loads(squares.refs.read_text())
    refs[0]["ann_id"] = 999
    refs[1]["sentences"].append({"sent": " ", "raw": ""})
    refs[2]["image_id"] = 77
    path = squares.dump("bad.json", refs)
    report = ReadReport()
    rows = read_referring_expressions(path, squares.instances, squares.images, on_error="skip", report=report)
    assert rows["image_id"][:] == ["2", "4"]
    assert report.dropped == {"missing annotation": 1, "no expressions": 1, "empty text": 1, "missing image": 1}
    with pytest.raises(BadRecordError, match=r"bad\.json, ref 0"):
        read_referring_expressions(path, squares.instances, squares.images)


@pytest.mark.parametrize("form", ["polygons", "compressed", "counts"])
def test_a_mask_comes_as_compressed_run_lengths_whatever_it_was(squares, form):
    content = json.loads(squares.instances.read_text())
    masks = []
    for annotation, image in zip(content["annotations"], content["images"], strict=True):
        masks.append(polygons_to_mask(annotation["segmentation"], (image["height"], image["width"])))
        if form != "polygons":
            annotation["segmentation"] = encode_rle(masks[-1], compressed=form == "compressed")
    rows = read_referring_expressions(squares.refs, squares.dump("i.json", content), squares.images, task="segment")
    assert rows.features == GROUNDED_FEATURES
    assert set(rows["task"][:]) == {"segment"}
    for row, mask in zip(rows, masks, strict=True):
        assert isinstance(row["prompts"][0]["mask"]["counts"], str)
        np.testing.assert_array_equal(decode_rle(row["prompts"][0]["mask"]), mask)


def test_localisation_leaves_masks_alone(squares):
    rows = read_referring_expressions(squares.refs, squares.instances, squares.images)
    assert [row["prompts"][0]["mask"] for row in rows] == [None] * 4


def test_an_object_without_a_mask_keeps_its_expression(squares):
    content = json.loads(squares.instances.read_text())
    del content["annotations"][0]["segmentation"]
    content["annotations"][1]["segmentation"] = []
    content["annotations"][2]["segmentation"] = {"size": [50, 50], "counts": [2500]}
    rows = read_referring_expressions(squares.refs, squares.dump("i.json", content), squares.images, task="segment")
    assert [row["prompts"][0]["mask"] is None for row in rows] == [True, True, True, False]


@pytest.mark.parametrize(
    ("segmentation", "reason"),
    [
        ({"size": [7, 9], "counts": [63]}, "mask of another size"),
        ({"size": None, "counts": [63]}, "mask of another size"),
        ({"size": [40, 60], "counts": [63]}, "malformed mask"),
        ({"size": [40, 60], "counts": [-1, 2401]}, "malformed mask"),
        ({"size": [40, 60], "counts": "d\n"}, "malformed mask"),
        ({"size": [40, 60]}, "malformed mask"),
        ([[1.0, 2.0, 3.0]], "malformed mask"),
        ([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], "malformed mask"),
        ("polygon", "malformed mask"),
        (7, "malformed mask"),
    ],
)
def test_a_mask_that_cannot_be_right_is_named_and_counted(squares, segmentation, reason):
    content = json.loads(squares.instances.read_text())
    content["annotations"][0]["segmentation"] = segmentation
    path, report = squares.dump("i.json", content), ReadReport()
    with pytest.raises(BadRecordError, match=r"refs\.json, ref 0"):
        read_referring_expressions(squares.refs, path, squares.images, task="segment")
    rows = read_referring_expressions(
        squares.refs, path, squares.images, task="segment", on_error="skip", report=report
    )
    assert report.dropped == {reason: 1, "no expressions": 1}
    assert len(rows) == 3


@pytest.mark.parametrize(
    ("change", "dropped"),
    [
        ({"image_id": [1]}, {"malformed record": 1}),
        ({"image_id": True}, {"malformed record": 1}),
        ({"ann_id": {}}, {"malformed record": 1, "no expressions": 1}),
        ({"sentences": "the red square"}, {"malformed record": 1, "no expressions": 1}),
        ({"sentences": [7]}, {"malformed text": 1, "no expressions": 1}),
    ],
)
def test_a_reference_of_wrong_types_is_dropped_alone(squares, change, dropped):
    refs = json.loads(squares.refs.read_text())
    refs[0].update(change)
    path, report = squares.dump("bad.json", refs), ReadReport()
    rows = read_referring_expressions(path, squares.instances, squares.images, on_error="skip", report=report)
    assert rows["image_id"][:] == ["2", "3", "4"]
    assert report.dropped == dropped
    with pytest.raises(BadRecordError, match=r"bad\.json, ref 0"):
        read_referring_expressions(path, squares.instances, squares.images)


def test_references_that_are_no_records_are_dropped_alone(squares):
    refs = [1, None, *json.loads(squares.refs.read_text())]
    path, report = squares.dump("bad.json", refs), ReadReport()
    with pytest.raises(BadRecordError, match=r"bad\.json, ref 0: a record must be a mapping"):
        read_referring_expressions(path, squares.instances, squares.images)
    rows = read_referring_expressions(path, squares.instances, squares.images, on_error="skip", report=report)
    assert len(rows) == 4
    assert report.dropped == {"malformed record": 2}


def test_a_task_that_expressions_do_not_serve_is_refused(squares):
    with pytest.raises(ValueError, match="'segment' or 'reason', but it is 'dense'"):
        read_referring_expressions(squares.refs, squares.instances, squares.images, task="dense")


def test_expressions_of_an_image_are_asked_for_six_five_and_four_at_once(squares):
    refs = json.loads(squares.refs.read_text())
    sentences = [{"sent": f"The Square {k}"} for k in range(16)]
    refs[0]["sentences"] = sentences[:10]
    refs.append({**refs[0], "ref_id": 9, "ann_id": 12, "image_id": 1, "sentences": sentences[10:]})
    many = squares.dump("many.json", refs)
    rows = read_referring_expressions(many, squares.instances, squares.images, task="reason")
    first = rows[0]["prompts"]
    assert [len(prompt["targets"]) for prompt in first] == [6, 5, 4, 1]
    assert first[0]["context"] == (
        "What is the square 0, the square 1, the square 2, the square 3, the square 4 and the square 5 in this image?"
    )
    assert first[0]["target"] == "{seg}, {seg}, {seg}, {seg}, {seg} and {seg}." and first[3]["target"] == "{seg}."
    assert first[0]["targets"][0]["box"] == squares.boxes[0] and first[3]["targets"][0]["name"] == "the square 15"
    assert rows[1]["prompts"][0]["targets"][0]["mask"] is not None


def test_an_object_without_a_mask_cannot_be_a_target(squares):
    coco = json.loads(squares.instances.read_text())
    del coco["annotations"][0]["segmentation"]
    given, report = (squares.refs, squares.dump("bare.json", coco), squares.images), ReadReport()
    with pytest.raises(BadRecordError, match="has no segmentation"):
        read_referring_expressions(*given, task="reason")
    rows = read_referring_expressions(*given, task="reason", on_error="skip", report=report)
    assert len(rows) == 3 and report.dropped["missing mask"] == 1
