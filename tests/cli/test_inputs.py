"""What the commands take for images, what they say of the rest, and what is answered before torch is imported."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from pixelllm_hf.cli import OK, SOME_FAILED, WRONG_USAGE, main
from pixelllm_hf.cli.images import find_images, names_from_root, stems_from_root
from pixelllm_hf.processing.image_reading import readable_suffixes


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """x.png, sub/x.png, sub/deep/y.JPG and things that are no images."""
    folder = tmp_path / "tree"
    (folder / "sub" / "deep").mkdir(parents=True)
    for name in ("x.png", "sub/x.png"):
        Image.new("RGB", (20, 10)).save(folder / name)
    Image.new("RGB", (20, 10)).save(folder / "sub/deep/y.JPG", format="JPEG")
    (folder / "notes.txt").touch()
    (folder / "sub" / "movie.mov").touch()
    return folder


def found(*arguments: object, **options) -> list[str]:
    return [image.name for image in find_images(map(str, arguments), **options).images]


def test_every_suffix_that_the_reader_reads_is_found_in_a_folder(tmp_path: Path):
    for suffix in readable_suffixes():
        (tmp_path / f"a{suffix}").touch()
    assert len(found(tmp_path)) == len(readable_suffixes()) > 10
    assert {".jfif", ".png", ".webp"} <= readable_suffixes()


def test_sub_folders_are_read_when_asked_for_and_else_spoken_of(tree: Path):
    flat, deep = find_images([str(tree)]), find_images([str(tree)], recursive=True)
    assert [i.name for i in flat.images] == [str(tree / "x.png")]
    assert any("sub" in told and "--recursive" in told for told in flat.left_out)
    assert [i.name for i in deep.images] == [str(tree / n) for n in ("x.png", "sub/x.png", "sub/deep/y.JPG")]
    assert not any("sub-folders" in told for told in deep.left_out)


def test_every_file_that_is_left_out_is_spoken_of(tree: Path):
    (told,) = find_images([str(tree)], recursive=True).left_out
    assert "2 of 5 files" in told and "notes.txt" in told and "movie.mov" in told
    for i in range(9):
        (tree / f"{i}.txt").touch()
    (told,) = find_images([str(tree)], recursive=True).left_out
    assert "11 of 14 files" in told and "10 .txt" in told and "1 .mov" in told


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")
def test_pipes_and_circles_of_links_in_a_folder_are_left_out(tree: Path):
    os.mkfifo(tree / "pipe.png")
    (tree / "circle").symlink_to(tree)
    inputs = find_images([str(tree)], recursive=True)
    assert len(inputs.images) == 3
    assert any("pipe.png" in told for told in inputs.left_out)
    assert any("circle" in told and "links" in told for told in inputs.left_out)


def test_one_image_given_in_two_ways_is_asked_once(tree: Path):
    assert len(found(tree / "x.png", f"{tree}/./x.png", tree)) == 1


def test_names_tell_images_of_one_name_apart_and_are_short_within_one_folder(tree: Path, monkeypatch):
    def names(*arguments: object, **options) -> list[str]:
        return list(names_from_root(find_images(map(str, arguments), **options).images).values())

    assert names(tree) == ["x.png"]
    assert names(tree, recursive=True) == ["x.png", "sub/x.png", "sub/deep/y.JPG"]
    assert names(tree / "sub", tree / "sub" / "deep") == ["x.png", "deep/y.JPG"]
    monkeypatch.chdir(tree)
    assert names("sub/x.png", "x.png") == ["sub/x.png", "x.png"]


def test_files_about_images_have_different_names_when_only_suffixes_differ(tree: Path):
    shutil.copy(tree / "x.png", tree / "x.jpg")
    stems = stems_from_root(find_images([str(tree)], recursive=True).images)
    assert list(stems.values()) == ["x.jpg", "x.png", "sub/x", "sub/deep/y"]


def test_equal_names_in_two_folders_stay_apart_in_a_coco_file(run, tree: Path, tmp_path: Path):
    out = tmp_path / "out.json"
    assert run("refer", tree, "a dog", "-r", "--json", out, "--format", "coco") == OK
    written = json.loads(out.read_text())
    assert [i["file_name"] for i in written["images"]] == ["x.png", "sub/x.png", "sub/deep/y.JPG"]
    assert len({i["id"] for i in written["images"]}) == 3
    assert all(0 <= a["score"] <= 1 for a in written["annotations"])


@pytest.mark.skipif(sys.platform != "linux", reason="the system has no such names")
def test_a_name_that_is_no_unicode_is_answered_and_written_in_valid_records(run, tree: Path, tmp_path: Path, capsys):
    shutil.copy(tree / "x.png", os.fsencode(tree) + b"/caf\xe9.png")
    out = tmp_path / "out.jsonl"
    assert run("refer", tree, "a dog", "--json", out, "--draw", tmp_path / "drawn") == OK
    images = [json.loads(line)["image"] for line in out.read_bytes().decode("utf-8").splitlines()]
    assert images == [f"{tree}/caf\\xe9.png", f"{tree}/x.png"]
    assert sorted(p.name for p in (tmp_path / "drawn").iterdir()) == ["caf\\xe9.png", "x.png"]
    before = out.read_bytes()
    assert run("refer", tree, "a dog", "--json", out, "--resume") == OK
    assert out.read_bytes() == before and "2 of 2 images are answered" in capsys.readouterr().err
    assert run("refer", tree, "a dog", "--json", tmp_path / "coco.json", "--format", "coco") == OK
    json.loads((tmp_path / "coco.json").read_bytes().decode("utf-8"))


def test_an_image_comes_from_standard_input(run, tree: Path, tmp_path: Path, records, monkeypatch):
    def stdin(content: bytes) -> SimpleNamespace:
        return SimpleNamespace(buffer=io.BytesIO(content), isatty=lambda: False)

    content = (tree / "x.png").read_bytes()
    monkeypatch.setattr(sys, "stdin", stdin(content))
    assert run("refer", "-", "a dog", "--json", tmp_path / "out.jsonl", "--draw", tmp_path / "drawn") == OK
    (record,) = records(tmp_path / "out.jsonl")
    assert record["image"] == "-" and record["image_size"] == [20, 10]
    assert [p.name for p in (tmp_path / "drawn").iterdir()] == ["stdin.png"]
    for wrong in (b"", b"no image"):
        monkeypatch.setattr(sys, "stdin", stdin(wrong))
        assert run("refer", "-", "a dog") == SOME_FAILED
    assert run("refer", "-", "-", "a dog") == WRONG_USAGE


@pytest.mark.parametrize(
    ("argument", "told"),
    [
        ("https://example.org/a.jpg", "https://example.org/a.jpg"),
        ("x" * 5000 + ".jpg", "too long"),
        ("~nosuchuser/x.jpg", "does not exist"),
        ("gone.jpg", "gone.jpg does not exist"),
        ("notes.txt", "not an image"),
        ("pipe.jpg", "pipe"),
    ],
)
def test_what_is_no_image_is_said_without_loading_a_model(tree: Path, capsys, monkeypatch, argument: str, told: str):
    if argument == "pipe.jpg":
        os.mkfifo(tree / argument)
    monkeypatch.chdir(tree)
    monkeypatch.setattr("pixelllm_hf.inference.Captioner.load", lambda *_, **__: pytest.fail("a model was loaded"))
    assert main(["caption", argument]) == SOME_FAILED
    error = capsys.readouterr().err
    assert told in error and "Traceback" not in error


def test_mistakes_are_answered_before_torch_is_imported(tree: Path):
    program = (
        "import sys\nfrom pixelllm_hf.cli import main\n"
        "for words in (['caption', 'gone.jpg'], ['caption', 'x.png', '--model', 'no/such/model'],\n"
        "              ['caption', 'x.png', '--model', '.'], ['caption', 'x.png', '--device', 'gpu'], ['captoin']):\n"
        "    assert main(words)\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", program], cwd=tree, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    assert "gone.jpg does not exist" in result.stderr and "config.json" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["captoin", "a.png"], "Did you mean caption?"),
        (["sgement", "a.png"], "Did you mean segment?"),
        (["caption", "a.png", "--jsn", "out.jsonl"], "Did you mean --json?"),
        (["dense", "a.png", "--min-scor=3", "--max-result", "2"], "--max-results"),
        (["dense", "a.png", "--mim-score=0.3"], "Did you mean --min-score?"),
        (["caption", "a.png", "--format", "coc"], "Did you mean coco?"),
        (["caption", "a.png", "--device", "gpu"], "Did you mean cuda?"),
        (["caption", "a.png", "--device", "gpu"], "auto"),
        (["caption", "a.png", "--device", "cpuu"], "Did you mean cpu?"),
        (["caption", "a.png", "--device", ""], "auto"),
        (["caption", "a.png", "--model", "tinny"], "tiny"),
        (["caption", "a.png", "--model", "https://huggingface.co/org/name"], "https://huggingface.co/org/name"),
        (["demo", "--device", "gpu"], "Did you mean cuda?"),
        (["demo", "--prot", "80"], "Did you mean --port?"),
    ],
)
def test_the_nearest_name_is_suggested(arguments: list[str], told: str, capsys):
    assert main(arguments) == WRONG_USAGE
    assert told in capsys.readouterr().err


def test_an_expression_that_the_model_cannot_read_does_not_stop_the_others(
    run, tree: Path, tmp_path: Path, records, capsys
):
    out = tmp_path / "out.jsonl"
    assert run("refer", tree, "a dog", "--also", "☃", "--also", "two ☃ cats", "--json", out) == SOME_FAILED
    failed, *answers = records(out)
    assert failed["expression"] == "☃" and "no tokens" in failed["error"]
    assert [record["text"] for record in answers] == ["a dog", "two ☃ cats"]
    told = capsys.readouterr().err
    assert told.count("'two ☃ cats'") == 1 and "Warning" not in told
    before = out.read_bytes()
    assert run("refer", tree, "☃", "--json", out) == WRONG_USAGE
    assert "no tokens" in capsys.readouterr().err and out.read_bytes() == before


def test_a_trace_is_a_command(run, tree: Path, tmp_path: Path, records):
    assert run("trace", tree / "x.png", "--json", tmp_path / "out.jsonl") == OK
    assert records(tmp_path / "out.jsonl")[0]["prompt"].casefold().startswith("a long image caption")
