"""Records are written as they come: whatever ends a run, what it had answered is there and a next run goes on."""

from __future__ import annotations

import errno
import json
import os
import signal
from pathlib import Path

import pytest

from pixelllm_hf.cli import OK, SOME_FAILED, WRONG_USAGE, answering
from pixelllm_hf.cli.record_lines import LineFile
from pixelllm_hf.files import claim
from pixelllm_hf.inference import Captioner


def names(lines) -> list[str]:
    return [Path(line["image"]).name for line in lines]


@pytest.fixture(autouse=True)
def signals_as_in_a_terminal():
    """Under nohup, or started in the background, a process ignores SIGINT and SIGHUP, and so would the command."""
    wanted = {"SIGINT": signal.default_int_handler, "SIGTERM": signal.SIG_DFL, "SIGHUP": signal.SIG_DFL}
    found = {getattr(signal, name): handler for name, handler in wanted.items() if hasattr(signal, name)}
    before = {number: signal.signal(number, handler) for number, handler in found.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def stopped_after(monkeypatch: pytest.MonkeyPatch):
    """`stopped_after(n, what)` does `what` when n images have been shown."""

    def stop(number: int, what) -> None:
        shown, show = [], answering.print_captions

        def counted(*arguments):
            show(*arguments)
            shown.append(arguments)
            if len(shown) == number:
                what()

        monkeypatch.setattr(answering, "print_captions", counted)

    return stop


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), pytest.param("SIGTERM", 143), pytest.param("SIGHUP", 129)])
@pytest.mark.skipif(os.name == "nt", reason="the system has no such signals")
def test_a_signal_leaves_the_records_of_all_answers_and_nothing_else(
    caption, images, tmp_path: Path, records, capsys, stopped_after, name, code
):
    stopped_after(2, lambda: os.kill(os.getpid(), getattr(signal, name)))
    before = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGHUP)}
    assert caption(images, "--json", tmp_path / "out.jsonl", "--batch-size", 1) == code
    assert names(records(tmp_path / "out.jsonl")) == ["a.png", "b.jpg"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["images", "out.jsonl"]
    told = capsys.readouterr().err
    assert "2 of 3 images done" in told and "--resume" in told and "Traceback" not in told
    assert {n: signal.getsignal(n) for n in before} == before


def test_a_resumed_run_gives_the_records_of_a_whole_one(
    caption, images, tmp_path: Path, capsys, stopped_after, monkeypatch
):
    assert caption(images, "--json", tmp_path / "whole.jsonl") == OK
    out = tmp_path / "out.jsonl"
    stopped_after(1, lambda: os.kill(os.getpid(), signal.SIGINT))
    assert caption(images, "--json", out) == 130
    monkeypatch.undo()
    with open(out, "ab") as file:
        file.write(b'{"image": "half a li')
    assert caption(images, "--json", out, "--resume") == OK
    assert out.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    told = capsys.readouterr().err
    assert "1 of 3 images are answered already" in told
    asked: list[object] = []
    monkeypatch.setattr(Captioner, "__call__", lambda *args, **kwargs: asked.append(args))
    assert caption(images, "--json", out, "--resume") == OK
    assert not asked and out.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_an_image_with_half_of_its_answers_and_one_that_failed_are_asked_again(run, images, tmp_path: Path, records):
    out, question = tmp_path / "out.jsonl", ("a dog", "--also", "two cats", "--json", tmp_path / "out.jsonl")
    good = (images / "b.jpg").read_bytes()
    (images / "b.jpg").write_bytes(good[:200])
    assert run("refer", images, *question) == SOME_FAILED
    lines = out.read_text().splitlines(keepends=True)
    assert len(lines) == 5 and "error" in lines[2]
    out.write_text("".join(lines[:-1]))  # c.png has the first of its two answers
    (images / "b.jpg").write_bytes(good)
    assert run("refer", images, *question, "--resume") == OK
    assert sorted(names(records(out))) == ["a.png"] * 2 + ["b.jpg"] * 2 + ["c.png"] * 2
    assert not any("error" in record for record in records(out))


@pytest.mark.parametrize(
    "other",
    [
        ("refer", "two cats"),
        ("segment", "a dog"),
        ("refer", "a dog", "--also", "two cats"),
        ("region", "--box", "1,2,20,20"),
        ("caption",),
    ],
)
def test_a_run_is_not_resumed_with_another_question(run, images, tmp_path: Path, capsys, other):
    out = tmp_path / "out.jsonl"
    assert run("refer", images / "a.png", images / "c.png", "a dog", "--json", out) == OK
    before = out.read_bytes()
    code = run(other[0], images / "a.png", *other[1:], "--json", out, "--resume")
    if other[1:] == ("a dog", "--also", "two cats"):  # the first expression is the same: asked again, together
        assert code == OK
    else:
        assert code == WRONG_USAGE and out.read_bytes() == before
        assert "another question" in capsys.readouterr().err


def test_points_and_boxes_are_told_apart_from_others_when_resuming(run, images, tmp_path: Path, capsys):
    question = ("--box", "2,2,30,300", "--point", "10,20", "--json", tmp_path / "out.jsonl")
    assert run("region", images / "a.png", *question) == OK
    assert run("region", images / "a.png", *question, "--resume") == OK
    assert "1 of 1 images are answered already" in capsys.readouterr().err
    for changed in (("--box", "2,2,30,20", *question[2:]), (*question[:2], "--point", "20,20", *question[4:])):
        assert run("region", images / "a.png", *changed, "--resume") == WRONG_USAGE


@pytest.mark.parametrize("line", ["[]", "{}", '{"image": "a.png"}', "no json", '{"image": 3, "text": "x"}', "[" * 5000])
def test_what_is_no_file_of_records_is_not_continued(caption, images, tmp_path: Path, capsys, line):
    (tmp_path / "out.jsonl").write_text(line + "\n")
    assert caption(images / "a.png", "--json", tmp_path / "out.jsonl", "--resume") == WRONG_USAGE
    assert "line 1" in capsys.readouterr().err
    assert (tmp_path / "out.jsonl").read_text() == line + "\n"


@pytest.mark.parametrize("options", [(), ("--json", "-"), ("--json", "out", "--format", "coco")])
def test_only_a_file_of_plain_records_can_be_resumed(caption, images, options, capsys):
    assert caption(images / "a.png", *options, "--resume") == WRONG_USAGE
    assert "--resume" in capsys.readouterr().err


def test_a_run_that_cannot_start_leaves_the_records_of_the_one_before(run, images, tmp_path: Path):
    for name in ("old.jsonl", "new.jsonl"):
        if name == "old.jsonl":
            (tmp_path / name).write_text("old\n")
        assert run("refer", images / "a.png", "a dog", "--json", tmp_path / name, "--revision", "x") == WRONG_USAGE
    assert (tmp_path / "old.jsonl").read_text() == "old\n" and not (tmp_path / "new.jsonl").exists()


def test_a_second_run_on_one_file_is_refused_and_harms_nothing(caption, images, tmp_path: Path, capsys):
    pytest.importorskip("fcntl", reason="the system has no such locks")
    out = tmp_path / "out.jsonl"
    out.write_text("first\n")
    with open(out, "a") as first:
        claim(first)
        assert caption(images / "a.png", "--json", out) == WRONG_USAGE
    assert "another run is writing" in capsys.readouterr().err and out.read_text() == "first\n"


def test_after_a_full_disk_the_lines_before_are_whole(tmp_path: Path):
    class FullDisk:
        def __init__(self, file):
            self.file, self.room = file, 30

        def __getattr__(self, name):
            return getattr(self.file, name)

        def write(self, content):
            if self.room <= 0:
                raise OSError(errno.ENOSPC, "No space left on device")
            written = self.file.write(bytes(content[: self.room]))
            self.room -= written
            return written

    lines = LineFile(tmp_path / "out.jsonl")
    lines._file = FullDisk(lines._file)
    lines.write([{"image": "a.png"}])
    with pytest.raises(OSError, match="No space"):
        lines.write([{"image": "b.png"}, {"image": "b.png"}])
    lines.close(failed=True)
    assert [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()] == [{"image": "a.png"}]


def test_an_interrupted_coco_file_has_what_was_found(caption, images, tmp_path: Path, stopped_after):
    stopped_after(2, lambda: os.kill(os.getpid(), signal.SIGTERM))
    assert caption(images, "--json", tmp_path / "out.json", "--format", "coco", "--batch-size", 1) == 143
    assert [i["file_name"] for i in json.loads((tmp_path / "out.json").read_text())["images"]] == ["a.png", "b.jpg"]
