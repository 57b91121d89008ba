"""Records on standard output, through pipes and links, and in the formats of other tools."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml

from pixelllm_hf.cli import OK, SOME_FAILED, WRONG_USAGE


def test_records_on_standard_output_are_alone_there(run, images: Path, capsys):
    assert run("refer", images, "a dog", "--json", "-") == OK
    out, err = capsys.readouterr()
    assert len([json.loads(line) for line in out.splitlines()]) == 3
    assert str(images / "a.png") in err and "box (" in err
    assert run("refer", images, "a dog", "--json", "-", "--format", "coco") == OK
    assert len(json.loads(capsys.readouterr().out)["images"]) == 3


@pytest.mark.skipif(not Path("/dev/stdout").exists(), reason="the system has no such device")
@pytest.mark.parametrize("form", ["plain", "coco"])
def test_dev_stdout_is_standard_output(small_checkpoint: Path, images: Path, tmp_path: Path, form: str):
    command = [sys.executable, "-m", "pixelllm_hf.cli", "refer", str(images / "a.png"), "a dog"]
    command += ["--model", str(small_checkpoint), "--device", "cpu", "--json", "/dev/stdout", "--format", form]
    with open(tmp_path / "out.json", "w") as file:
        subprocess.run(command, stdout=file, stderr=subprocess.DEVNULL, check=True, timeout=300)
    assert json.loads((tmp_path / "out.json").read_text())
    assert Path("/dev/stdout").exists() and not Path("/dev/stdout").resolve(strict=False).is_dir()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")
@pytest.mark.parametrize("form", ["plain", "coco"])
def test_pipes_are_written_through_and_links_followed(run, images: Path, tmp_path: Path, form: str):
    os.mkfifo(tmp_path / "pipe")
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append((tmp_path / "pipe").read_text()))
    reader.start()
    assert run("refer", images / "a.png", "a dog", "--json", tmp_path / "pipe", "--format", form) == OK
    reader.join(timeout=60)
    assert json.loads(read[0]) and (tmp_path / "pipe").is_fifo()
    (tmp_path / "link.json").symlink_to(tmp_path / "real.json")
    assert run("refer", images / "a.png", "a dog", "--json", tmp_path / "link.json", "--format", form) == OK
    assert (tmp_path / "link.json").is_symlink() and (tmp_path / "real.json").read_text() == read[0]


def test_records_never_take_the_place_of_an_image(run, images: Path, tmp_path: Path):
    content = (images / "a.png").read_bytes()
    (tmp_path / "link.png").symlink_to(images / "a.png")
    for path in (images / "a.png", tmp_path / "link.png"):
        assert run("refer", images, "a dog", "--json", path) == WRONG_USAGE
    assert (images / "a.png").read_bytes() == content


@pytest.mark.parametrize("form", ["labelme", "voc", "yolo"])
def test_a_file_for_each_image_needs_a_folder(run, images: Path, form: str, capsys):
    assert run("refer", images, "a dog", "--json", "-", "--format", form) == WRONG_USAGE
    assert "folder" in capsys.readouterr().err


def test_yolo_classes_stay_what_they_are_from_run_to_run(run, images: Path, tmp_path: Path):
    out = tmp_path / "yolo"
    assert run("segment", images, "a dog", "--also", "two cats", "--json", out, "--format", "yolo") == OK
    assert run("refer", images / "a.png", "left", "--also", "a dog", "--json", out, "--format", "yolo") == OK
    assert yaml.safe_load((out / "data.yaml").read_text())["names"] == ["a dog", "two cats", "left"]
    assert sorted(p.name for p in (out / "labels").iterdir()) == ["a.txt", "b.txt", "c.txt"]
    numbers = {line.split()[0] for line in (out / "labels" / "a.txt").read_text().splitlines()}
    assert numbers <= {"2", "0"}
    (out / "data.yaml").write_text("names: 3")
    assert run("refer", images, "a dog", "--json", out, "--format", "yolo") == WRONG_USAGE


def test_voc_files_hold_the_boxes(run, images: Path, tmp_path: Path):
    assert run("refer", images, "a dog", "--json", tmp_path / "voc", "--format", "voc") == OK
    root = ElementTree.parse(tmp_path / "voc" / "b.xml").getroot()
    assert root.findtext("filename") == "b.jpg" and root.findtext("object/name") == "a dog"


def test_narratives_are_lines(run, images: Path, tmp_path: Path, records):
    assert run("caption", images, "--json", tmp_path / "out.jsonl", "--format", "narratives") == OK
    assert [record["image_id"] for record in records(tmp_path / "out.jsonl")] == ["a", "b", "c"]


def test_a_record_that_cannot_be_written_fails_alone(run, images: Path, tmp_path: Path, capsys):
    (tmp_path / "marks" / "b.json").mkdir(parents=True)
    assert run("refer", images, "a dog", "--json", tmp_path / "marks", "--format", "labelme") == SOME_FAILED
    assert sorted(p.name for p in (tmp_path / "marks").iterdir()) == ["a.json", "b.json", "c.json"]
    assert "b.jpg" in capsys.readouterr().err


@pytest.mark.parametrize("where", ["--json", "--draw"])
def test_an_output_that_no_file_system_takes_is_wrong_usage(run, images: Path, tmp_path: Path, capsys, where: str):
    (tmp_path / "circle.png").symlink_to("circle.png")
    for path in (tmp_path / ("x" * 300 + ".png"), tmp_path / "circle.png"):
        assert run("refer", images / "a.png", "a dog", where, path) in (WRONG_USAGE, SOME_FAILED)
    assert "Traceback" not in capsys.readouterr().err


def test_a_long_expression_is_no_file_name(run, images: Path, tmp_path: Path, records):
    assert run("refer", images / "a.png", "a dog " * 45, "--json", tmp_path / "out.jsonl") == OK
    assert records(tmp_path / "out.jsonl")[0]["box"]
