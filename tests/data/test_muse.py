from __future__ import annotations

import copy
import json

import numpy as np
import pytest
from PIL import Image

from pixelllm_hf.data import BadRecordError, ReadReport, prepare_format, read_format, read_prepared
from pixelllm_hf.processing.mask_codec import decode_rle, encode_rle


def thing(name: str, box: list[int], **more) -> dict:
    x, y, w, h = box
    ring = [x, y, x + w, y, x + w, y + h, x, y + h]
    return {"category_id": 1, "category_name": name, "bbox": box, "segmentation": [ring], **more}


CUP, KNIFE = thing("cup", [2, 3, 8, 6], rephrased_name="a cup"), thing("knife", [20, 4, 5, 20])
RECORD = {
    "id": 7,
    "file_name": "COCO_train2014_000000000007.png",
    "height": 30,
    "width": 40,
    "ann_list": [CUP, KNIFE],
    "questions": ["What holds tea?", "What cuts?", "What flies?", "What is here?"],
    "answers": [[CUP], [KNIFE], [], [KNIFE, CUP]],
    "text_answers": ["The cup {seg} does.", None, "Nothing flies here.", "A knife {seg} and a cup {seg}."],
}


@pytest.fixture
def muse(tmp_path):
    (tmp_path / "images").mkdir()
    Image.new("RGB", (40, 30)).save(tmp_path / "images" / RECORD["file_name"])

    def read(*records: dict, **options):
        (tmp_path / "muse.json").write_text(json.dumps(list(records)))
        return read_format("muse", tmp_path / "muse.json", tmp_path / "images", **options)

    read.folder = tmp_path
    return read


def changed(**values) -> dict:
    return {**copy.deepcopy(RECORD), **values}


def test_a_record_is_a_row_with_a_prompt_for_every_question_and_its_targets_in_the_answer_s_order(muse):
    (row,) = muse(RECORD)
    assert (row["task"], row["image_id"], row["width"], row["height"]) == ("reason", "7", 40, 30)
    assert [prompt["context"] for prompt in row["prompts"]] == RECORD["questions"]
    named = [[target["name"] for target in prompt["targets"]] for prompt in row["prompts"]]
    assert named == [["a cup"], ["knife"], [], ["knife", "a cup"]]
    first, unsaid, nothing, last = row["prompts"]
    assert first["target"] == "The cup {seg} does." and nothing["target"] == "Nothing flies here."
    assert unsaid["target"] == "knife is {seg}."
    assert last["targets"][1]["box"] == [2, 3, 10, 9]
    inside = np.zeros((30, 40), bool)
    inside[3:9, 2:10] = True
    assert np.array_equal(decode_rle(last["targets"][1]["mask"]), inside)
    assert all(target["ignored"] is None for target in last["targets"]) and last["text_loss"]


def test_parts_of_a_mask_are_one_mask_and_run_lengths_are_taken_too(muse):
    both = CUP["segmentation"] + KNIFE["segmentation"]
    union = np.zeros((30, 40), bool)
    union[3:9, 2:10] = union[4:24, 20:25] = True
    packed = changed(answers=[[{**CUP, "segmentation": both}], [{**KNIFE, "segmentation": encode_rle(union)}], [], []])
    packed["text_answers"][3] = None
    (row,) = muse(packed)
    for prompt in row["prompts"][:2]:
        assert np.array_equal(decode_rle(prompt["targets"][0]["mask"]), union)
    assert row["prompts"][3]["target"] == "There is none."


def test_images_of_2017_are_found_by_their_url(muse):
    (muse.folder / "images" / "val2017").mkdir()
    Image.new("RGB", (40, 30)).save(muse.folder / "images" / "val2017" / "000000000009.png")
    record = changed(coco_url="http://images.cocodataset.org/val2017/000000000009.png")
    del record["file_name"], record["id"]
    (row,) = muse(record)
    assert row["image_id"] == "000000000009"


def test_one_bad_target_costs_its_question_and_no_other(muse):
    record = changed()
    record["answers"][3][1] = {**CUP, "segmentation": [[1, 2, 3]]}
    report = ReadReport()
    (row,) = muse(record, on_error="skip", report=report)
    assert [prompt["context"] for prompt in row["prompts"]] == RECORD["questions"][:3]
    assert dict(report.dropped) == {"malformed mask": 1} and report.read["questions"] == 4
    assert "record 0, question 3, target 1" in report.first["malformed mask"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r["text_answers"].__setitem__(0, "The cup does."), "has 0 {seg} for 1 target"),
        (lambda r: r["text_answers"].__setitem__(2, "A bird {seg}."), "has 1 {seg} for 0 target"),
        (lambda r: r["text_answers"].__setitem__(0, ""), "is empty"),
        (lambda r: r["questions"].pop(), "3 questions, 4 answers"),
        (lambda r: r.update(text_answers=["x"]), "4 answers and 1 text answers"),
        (lambda r: r["questions"].__setitem__(0, None), "a question must be a string"),
        (lambda r: r["answers"].__setitem__(0, CUP), "an answer must be a list"),
        (lambda r: r["answers"][0].__setitem__(0, {**CUP, "segmentation": []}), "has no segmentation"),
        (lambda r: r["answers"][0].__setitem__(0, {**CUP, "bbox": [50, 0, 9, 9]}), "no area inside"),
        (lambda r: r["answers"][1].__setitem__(0, {"segmentation": KNIFE["segmentation"]}), "no 'rephrased_name' or"),
        (lambda r: r["answers"][1].__setitem__(0, {**KNIFE, "category_name": " "}), "is empty"),
        (lambda r: r.update(height=0), "height must be"),
        (lambda r: r.update(file_name="other.png", id=3), "no file for image"),
        (lambda r: r.pop("file_name"), "no file_name or coco_url"),
        (lambda r: r.pop("answers"), "no 'answers'"),
        (lambda r: r["answers"][0].__setitem__(0, {**CUP, "segmentation": {"size": [9, 9], "counts": [81]}}), "is for"),
    ],
)
def test_every_kind_of_bad_record_is_named_and_costs_no_other_record(muse, change, message):
    bad = changed()
    change(bad)
    with pytest.raises(BadRecordError, match=message.replace("{", r"\{").replace("}", r"\}")):
        list(muse(bad))
    report = ReadReport()
    rows = list(muse(bad, RECORD, on_error="skip", report=report))
    assert len(rows[-1]["prompts"]) == 4 and sum(report.dropped.values()) == 1


def test_records_that_ask_nothing_are_left_out_and_counted(muse):
    silent = changed()
    for name in ("questions", "answers", "text_answers"):
        del silent[name]
    report = ReadReport()
    assert len(muse(silent, RECORD, report=report)) == 1
    assert dict(report.dropped) == {"image without questions": 1}


def test_a_target_smaller_than_a_pixel_keeps_its_question_and_has_an_empty_mask(muse):
    record = changed()
    record["answers"][0] = [{**CUP, "segmentation": [[5.1, 5.1, 5.2, 5.1, 5.2, 5.2]]}]
    (row,) = muse(record)
    assert not decode_rle(row["prompts"][0]["targets"][0]["mask"]).any()


def test_the_rows_are_prepared_and_come_back(muse, tmp_path):
    rows = muse(RECORD)
    prepare_format("muse", tmp_path / "muse.json", tmp_path / "images", tmp_path / "out")
    back = read_prepared(tmp_path / "out", task="reason", cache_dir=tmp_path / "cache")
    assert back[0]["prompts"] == rows[0]["prompts"]
