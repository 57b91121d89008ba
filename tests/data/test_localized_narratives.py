from __future__ import annotations

import copy
import json
from pathlib import Path

import datasets
import pytest

from pixelllm_hf.data.bad_records import BadRecordError, ReadReport
from pixelllm_hf.data.grounded_examples import GROUNDED_FEATURES
from pixelllm_hf.data.localized_narratives import read_localized_narratives


def lines(path: Path, records: list) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def test_every_word_gets_the_box_that_the_mouse_went_round(squares):
    rows = read_localized_narratives(squares.narratives, squares.images)
    assert rows.features == GROUNDED_FEATURES
    assert len(rows) == 4
    for row, box in zip(rows, squares.boxes, strict=True):
        prompt = row["prompts"][0]
        assert prompt["target"].endswith("square.")
        assert prompt["box"] is None
        assert prompt["text_loss"] and prompt["point_loss"]
        for utterance in prompt["utterances"]:
            # 16 samples of a square's outline miss its corners by less than a fifteenth of its round.
            assert utterance["box"] == pytest.approx(box, abs=64 / 15)


def test_streaming_gives_the_same_rows(squares):
    whole = list(read_localized_narratives(squares.narratives, squares.images))
    stream = read_localized_narratives(squares.narratives, squares.images, streaming=True)
    assert isinstance(stream, datasets.IterableDataset)
    assert stream.features == GROUNDED_FEATURES
    for _ in range(2):  # and again at the second pass
        streamed = list(stream)
        assert [row["image_id"] for row in streamed] == [row["image_id"] for row in whole]
        assert streamed[2]["prompts"][0]["target"] == whole[2]["prompts"][0]["target"]
        assert streamed[2]["image"].size == whole[2]["image"].size


def test_without_images_the_frame_is_the_unit_square(squares):
    row = read_localized_narratives(squares.narratives)[0]
    assert row["image"] is None
    assert (row["width"], row["height"]) == (1, 1)
    assert max(row["prompts"][0]["utterances"][0]["box"]) <= 1


def test_segments_may_come_in_any_order(squares):
    record = copy.deepcopy(squares.records[0])
    trace = record["traces"][0]
    record["traces"] = [trace[6:], trace[:6]]
    shuffled = read_localized_narratives(lines(squares.folder / "b.jsonl", [record]), squares.images)
    straight = read_localized_narratives(squares.narratives, squares.images)
    assert shuffled[0]["prompts"] == straight[0]["prompts"]


def _broken(record: dict, how: str) -> dict:
    record = copy.deepcopy(record)
    if how == "unknown key":
        record["confidence"] = 0.5
    elif how == "missing key":
        del record["caption"]
    elif how == "empty caption":
        record["caption"] = "  "
    elif how == "unordered times":
        trace = record["traces"][0]
        trace[2]["t"], trace[5]["t"] = trace[5]["t"], trace[2]["t"]
    elif how == "missing times":
        record["traces"][0][3]["t"] = None
    elif how == "no timed caption":
        record["timed_caption"] = []
    elif how == "no trace":
        record["traces"] = [record["traces"][0][:1]]
    elif how == "missing image":
        record["image_id"] = "nowhere"
    return record


REASONS = [
    "unknown key",
    "missing key",
    "empty caption",
    "unordered times",
    "missing times",
    "no timed caption",
    "no trace",
    "missing image",
]


@pytest.mark.parametrize("reason", REASONS)
def test_a_bad_record_is_named_with_its_file_and_line(squares, reason):
    path = lines(squares.folder / "bad.jsonl", [squares.records[0], _broken(squares.records[1], reason)])
    with pytest.raises(BadRecordError, match=r"bad\.jsonl, line 2") as caught:
        read_localized_narratives(path, squares.images)
    assert caught.value.reason == reason


@pytest.mark.parametrize("streaming", [False, True])
def test_skipped_records_are_counted_by_reason_and_the_rest_is_kept(squares, streaming, caplog):
    records = [squares.records[0], *(_broken(squares.records[1], reason) for reason in REASONS), squares.records[2]]
    path = lines(squares.folder / "bad.jsonl", records)
    with open(path, "a", encoding="utf-8") as file:
        file.write('{"image_id": "3", "capt\n')
    report = ReadReport()
    rows = list(read_localized_narratives(path, squares.images, on_error="skip", report=report, streaming=streaming))
    assert [row["image_id"] for row in rows] == ["1", "3"]
    assert report.kept == 2
    assert report.dropped == dict.fromkeys([*REASONS, "not JSON"], 1)
    assert "line 11" in report.first["not JSON"]
    assert "dropped 9" in caplog.text


def test_keys_can_be_let_pass(squares):
    path = lines(squares.folder / "b.jsonl", [_broken(squares.records[0], "unknown key")])
    assert len(read_localized_narratives(path, squares.images, ignore_keys=("confidence",))) == 1


def test_unordered_times_can_be_trusted(squares):
    path = lines(squares.folder / "b.jsonl", [_broken(squares.records[0], "unordered times")])
    assert len(read_localized_narratives(path, squares.images, unordered_times="sort")) == 1


def test_a_truncated_image_is_a_bad_record_when_images_are_checked(squares):
    file = squares.images / "000000000002.png"
    file.write_bytes(file.read_bytes()[:-30])
    report = ReadReport()
    read_localized_narratives(squares.narratives, squares.images, on_error="skip", check_images=True, report=report)
    assert report.kept == 3
    assert report.dropped == {"unreadable image": 1}
    assert "000000000002.png" in report.first["unreadable image"]


def test_missing_files_and_misspelt_settings_fail_before_reading(squares):
    with pytest.raises(FileNotFoundError, match="no annotation file"):
        read_localized_narratives(squares.folder / "none-*.jsonl", squares.images)
    with pytest.raises(FileNotFoundError, match="image folder"):
        read_localized_narratives(squares.narratives, squares.folder / "none")
    with pytest.raises(ValueError, match="on_error"):
        read_localized_narratives(squares.narratives, squares.images, on_error="ignore")


def test_several_files_are_read_in_the_order_of_their_names(squares):
    lines(squares.folder / "part-1.jsonl", squares.records[2:])
    lines(squares.folder / "part-0.jsonl", squares.records[:2])
    rows = read_localized_narratives(str(squares.folder / "part-*.jsonl"), squares.images)
    assert rows["image_id"][:] == ["1", "2", "3", "4"]
