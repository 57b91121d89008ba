"""Annotation files as people have them: compressed, marked, in other encodings, one value a line, older key names."""

from __future__ import annotations

import bz2
import codecs
import gzip
import json
import os
import pickle

import pytest

from pixelllm_hf.data import (
    AnnotationFileError,
    BadRecordError,
    ReadReport,
    annotation_text,
    load_plain_pickle,
    read_format,
)
from pixelllm_hf.data.annotation_text import load_json, read_records


def targets(rows) -> list[str]:
    return [prompt["target"] for row in rows for prompt in row["prompts"]]


@pytest.mark.parametrize(
    "wrapped",
    [
        gzip.compress,
        lambda content: codecs.BOM_UTF8 + content,
        lambda content: content.decode().encode("utf-16"),
        lambda content: content.decode().encode("utf-32"),
        lambda content: gzip.compress(codecs.BOM_UTF8 + content),
        lambda content: content.replace(b"\n", b"\r\n"),
    ],
)
def test_compressed_and_marked_files_read_like_the_plain_ones(squares, wrapped):
    squares.narratives.rename(squares.folder / "plain.jsonl")
    whole = [
        ("localized_narratives", squares.folder / "plain.jsonl", None),
        ("coco_captions", squares.captions, None),
        ("referring_expressions", squares.refs, squares.instances),
        ("referring_expressions", squares.pickled_refs, squares.instances),
        ("visual_genome", squares.regions, squares.image_data),
    ]
    for name, path, companion in whole:
        expected = targets(read_format(name, path, squares.images, companion=companion))
        if path.suffix == ".p":
            path.write_bytes(gzip.compress(path.read_bytes()))
        else:
            path.write_bytes(wrapped(path.read_bytes()))
        assert targets(read_format(name, path, squares.images, companion=companion)) == expected


@pytest.mark.parametrize("name", ["c.jsonl", "c.jsonl.gz", "c.json"])
def test_conversations_may_be_one_a_line(squares, name):
    turns = [{"from": "human", "value": "What?"}, {"from": "gpt", "value": "A square."}]
    lines = [json.dumps({"id": i, "image": f"{i:012d}.png", "conversations": turns}) for i in (1, 2)]
    content = "\n".join([lines[0], "{", "", lines[1]]).encode()
    path = squares.folder / name
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    report = ReadReport()
    rows = read_format("conversations", path, squares.images, on_error="skip", report=report)
    assert rows["image_id"][:] == ["000000000001", "000000000002"]
    assert report.dropped == {"not JSON": 1}
    with pytest.raises(BadRecordError, match=rf"{name}, line 2: the line is not JSON"):
        read_format("conversations", path, squares.images)


def test_chat_messages_are_conversations(squares):
    turns = [("system", "Be brief."), ("user", "What?"), ("assistant", "A square.")]
    record = {"images": ["000000000001.png"], "messages": [{"role": who, "content": said} for who, said in turns]}
    rows = read_format("conversations", squares.dump("c.json", [record]), squares.images)
    assert targets(rows) == ["A square."]


def test_one_line_in_another_encoding_is_dropped_alone_and_named(squares):
    lines = squares.narratives.read_bytes().splitlines()
    lines[1] = lines[1].replace(b"green", "gr\xfcn".encode("latin-1"))
    squares.narratives.write_bytes(b"\n".join(lines))
    report = ReadReport()
    rows = read_format("localized_narratives", squares.narratives, squares.images, on_error="skip", report=report)
    assert rows["image_id"][:] == ["1", "3", "4"]
    assert report.dropped == {"wrong encoding": 1}
    with pytest.raises(BadRecordError, match=r"line 2: .* byte 0xfc, which is not UTF-8"):
        read_format("localized_narratives", squares.narratives, squares.images)


def test_a_caption_in_another_encoding_costs_itself_in_a_json_file_too(squares):
    squares.captions.write_bytes(squares.captions.read_bytes().replace(b"one green", b"one gr\xfcn"))
    report = ReadReport()
    rows = read_format("coco_captions", squares.captions, squares.images, on_error="skip", report=report)
    assert targets(rows) == ["one red square", "one blue square", "one yellow square"]
    assert report.dropped == {"wrong encoding": 1, "no captions": 1}
    assert "annotation 1" in report.first["wrong encoding"]


def test_messages_can_be_written_whatever_the_file_held(squares):
    squares.captions.write_bytes(squares.captions.read_bytes().replace(b"one green", b"one \xff\\ud800"))
    report = ReadReport()
    read_format("coco_captions", squares.captions, squares.images, on_error="skip", report=report)
    report.summary().encode("utf-8")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not JSON"),
        (b'{"images": [1,\n\n 2', "line 3"),
        (b"\0" * 100, "is not JSON"),
        (b"[" * 100_000, "nested too deeply"),
        (b"[]", "must hold a dict, but it holds a list"),
        (b"PK\x03\x04rest", "zip archive; unpack it"),
        (bz2.compress(b"{}"), "bzip2 archive"),
        (gzip.compress(b"{}" * 999)[:30], "damaged gzip"),
        (b"\x1f\x8b" + b"x" * 99, "damaged gzip"),
    ],
)
def test_a_file_that_cannot_be_read_is_named_with_the_reason(tmp_path, content, message):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(AnnotationFileError, match=message) as caught:
        load_json(path, dict)
    assert "a.json" in str(caught.value)


def test_what_is_no_file_is_answered_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe.json")
    for path, kind in ((tmp_path, "a folder"), (tmp_path / "pipe.json", "no regular file")):
        with pytest.raises(AnnotationFileError, match=kind):
            load_json(path, dict)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        load_json(tmp_path / "none.json", dict)
    with pytest.raises(AnnotationFileError, match="cannot be opened"):
        load_json(tmp_path / ("x" * 5000), dict)


def test_a_small_file_does_not_expand_without_end(tmp_path, monkeypatch):
    monkeypatch.setattr(annotation_text, "_MAX_EXPANDED", 1 << 16)
    (tmp_path / "a.json").write_bytes(gzip.compress(b"[" + b" " * (8 << 20) + b"]"))
    with pytest.raises(AnnotationFileError, match="expands from"):
        load_json(tmp_path / "a.json", list)
    (tmp_path / "a.jsonl").write_bytes(gzip.compress(b"\n" * (1 << 18)))
    with pytest.raises(AnnotationFileError, match="expands from"):
        list(read_records(tmp_path / "a.jsonl", ReadReport(), "skip"))


def test_a_sparse_file_of_any_size_is_not_read(tmp_path):
    with open(tmp_path / "a.json", "wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(AnnotationFileError, match="above the limit"):
        load_json(tmp_path / "a.json", dict)


def test_an_overlong_line_and_a_cut_file_cost_no_other_line(tmp_path, monkeypatch):
    monkeypatch.setattr(annotation_text, "MAX_LINE", 64)
    path, report = tmp_path / "a.jsonl", ReadReport()
    path.write_bytes(b"[1]\n" + b" " * 300 + b"\n[2]\n")
    assert [record for _, record in read_records(path, report, "skip")] == [[1], [2]]
    assert report.dropped == {"overlong line": 1}
    lines = b"".join(f"[{os.urandom(9).hex()!r}]\n".replace("'", '"').encode() for _ in range(4000))
    path.write_bytes(gzip.compress(lines)[:-2000])
    report = ReadReport()
    assert len(list(read_records(path, report, "skip"))) > 1000
    assert report.dropped["file cut short"] == 1


def test_numbers_of_any_length_are_values_to_check(squares):
    content = squares.captions.read_text().replace('"width": 60', '"width": 1' + "0" * 5000, 1)
    squares.captions.write_text(content)
    report = ReadReport()
    rows = read_format("coco_captions", squares.captions, squares.images, on_error="skip", report=report)
    assert len(rows) == 3
    assert report.dropped["malformed size"] == 1


def _bomb(doublings: int) -> bytes:
    """A dict whose key is a tuple of two tuples of two tuples ..."""
    return b"\x80\x02)q\x00" + b"h\x00h\x00\x86q\x00" * doublings + b"0}h\x00Ns."


def _colliding_item(number: int) -> bytes:
    """A key of 72 bits, whose hash is 0 like that of the others, and None."""
    return b"\x8a\x09" + (number * (2**61 - 1)).to_bytes(9, "little") + b"N"


@pytest.mark.parametrize(
    "content",
    [
        b"\x80\x02]r\x00\x00\x00\x10.",  # a table of 2**28 entries
        b"\x80\x02]r\xff\xff\xff\x7f.",
        b"\x80\x04\x8d\x00\x00\x00\x00\x10\x00\x00\x00abc.",  # a text of 64 GB
        b"\x80\x04\x8e" + b"\xff" * 8 + b"abc.",
        b"\x80\x05\x96\x00\x00\x00\x00\x10\x00\x00\x00abc.",  # a bytearray of 64 GB
        b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7fN.",  # a frame
        _bomb(40),
        b"\x80\x04\x8f(h\x00" + _bomb(40)[2:-6] + b"\x90.",
        b"\x80\x02}(" + b"".join(map(_colliding_item, range(9))) + b"u.",
    ],
)
def test_a_small_pickle_takes_little_memory_and_time(tmp_path, content):
    import resource

    path = tmp_path / "refs.p"
    path.write_bytes(content)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        result = load_plain_pickle(path)
    except pickle.UnpicklingError as error:
        assert "refs.p" in str(error)
    else:
        assert result is None or result == []
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 << 10
