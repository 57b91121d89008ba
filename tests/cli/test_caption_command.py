from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from pixelllm_hf.cli import OK, SOME_FAILED, WRONG_USAGE, all_commands, main


def test_one_image_prints_its_caption_and_its_words_with_coordinates(
    caption, images: Path, capsys, tmp_path: Path, records
):
    assert caption(images / "a.png", "--json", tmp_path / "out.jsonl") == OK
    (record,) = records(tmp_path / "out.jsonl")
    printed = capsys.readouterr().out
    assert record["text"] in printed
    assert record["image"] == str(images / "a.png")
    assert record["words"], "the small model says something"
    for word in record["words"]:
        x, y = word["point"]
        assert 0 <= x <= 60 and 0 <= y <= 40
        assert f"({x:6.1f}, {y:6.1f})" in printed


def test_a_folder_gives_a_record_for_each_image_in_order(caption, images: Path, capsys, tmp_path: Path, records):
    assert caption(images, "--json", tmp_path / "out.jsonl", "--batch-size", 2) == OK
    assert [Path(r["image"]).name for r in records(tmp_path / "out.jsonl")] == ["a.png", "b.jpg", "c.png"]
    assert "3/3" in capsys.readouterr().err, "the progress bar"


def test_answers_do_not_depend_on_the_batch_size(caption, images: Path, tmp_path: Path, records):
    for size in (1, 3):
        caption(images, "--json", tmp_path / f"{size}.jsonl", "--batch-size", size)
    one, three = records(tmp_path / "1.jsonl"), records(tmp_path / "3.jsonl")
    assert [r["text"] for r in one] == [r["text"] for r in three]


def test_a_bad_file_in_a_folder_is_reported_and_the_others_are_done(
    caption, images: Path, capsys, tmp_path: Path, records
):
    whole = (images / "c.png").read_bytes()
    (images / "broken.png").write_bytes(whole[: len(whole) // 2])
    assert caption(images, "--json", tmp_path / "out.jsonl", "--draw", tmp_path / "drawn") == SOME_FAILED
    done = {Path(r["image"]).name: r for r in records(tmp_path / "out.jsonl")}
    assert set(done) == {"a.png", "b.jpg", "broken.png", "c.png"}
    assert "error" in done["broken.png"] and "text" in done["c.png"]
    told = capsys.readouterr().err
    assert "broken.png" in told and "1 of 4 inputs failed" in told and "Traceback" not in told
    assert sorted(p.name for p in (tmp_path / "drawn").iterdir()) == ["a.png", "b.png", "c.png"]


def test_missing_files_and_empty_folders_are_failed_inputs(caption, images: Path, capsys, tmp_path: Path):
    (tmp_path / "empty").mkdir()
    assert caption(images / "a.png", tmp_path / "gone.jpg", tmp_path / "empty") == SOME_FAILED
    told = capsys.readouterr().err
    assert "gone.jpg" in told and "empty" in told and "2 of 3 inputs failed" in told


def test_each_box_gets_its_own_answer_and_drawing(caption, images: Path, tmp_path: Path, records):
    boxes = ["--box", "2,2,30,30", "--box", "10,5,50,35"]
    arguments = ["--json", tmp_path / "out.jsonl", "--draw", tmp_path / "out.png"]
    assert caption(images / "a.png", *boxes, *arguments) == OK
    assert [r["prompt_box"] for r in records(tmp_path / "out.jsonl")] == [[2, 2, 30, 30], [10, 5, 50, 35]]
    assert {p.name for p in tmp_path.glob("*.png")} == {"out.png", "out-a.png"}


def test_a_box_outside_one_image_fails_that_image_only(caption, images: Path, capsys, tmp_path: Path, records):
    assert caption(images, "--box", "40,10,58,25", "--json", tmp_path / "out.jsonl") == SOME_FAILED
    failed = {Path(r["image"]).name for r in records(tmp_path / "out.jsonl") if "error" in r}
    assert failed == {"b.jpg"}, "it is 30 pixels wide"


def test_the_drawing_has_the_image_in_it(caption, images: Path, tmp_path: Path):
    assert caption(images / "a.png", "--draw", tmp_path / "out.png") == OK
    with Image.open(tmp_path / "out.png") as drawing:
        assert drawing.size[0] >= 60 and drawing.size[1] > 40


def test_a_drawing_never_replaces_an_image(caption, images: Path, capsys):
    before = {p.name: p.read_bytes() for p in images.iterdir()}
    assert caption(images / "a.png", "--draw", images / "a.png") == WRONG_USAGE
    assert caption(images, "--draw", images) == OK
    assert all((images / name).read_bytes() == content for name, content in before.items())
    assert len(list(images.iterdir())) == len(before) + 3


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "image"),
        (["a.png", "--box", "1,2,3"], "four numbers"),
        (["a.png", "--box", "9,2,3,8"], "left top"),
        (["a.png", "--box", "nan,2,3,8"], "left top"),
        (["a.png", "--num-beams", "0"], "at least 1"),
        (["a.png", "--dtype", "int8"], "int8"),
        (["a.png", "--draw", "out.xyz"], "out.xyz"),
        (["a.png", "--json", "no/such/folder/out.jsonl"], "existing folder"),
        (["a.png", "--model", "no/such/model"], "no/such/model"),
        (["a.png", "--device", "abacus"], "abacus"),
    ],
)
def test_wrong_usage_is_exit_code_2_and_no_traceback(arguments: list[str], told: str, capsys, tmp_path: Path):
    assert main(["caption", *arguments]) == WRONG_USAGE
    error = capsys.readouterr().err
    assert told in error and "Traceback" not in error


def test_a_damaged_checkpoint_is_named(small_checkpoint: Path, images: Path, capsys, tmp_path: Path):
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    for file in small_checkpoint.iterdir():
        content = file.read_bytes()
        (damaged / file.name).write_bytes(content[: len(content) // 2] if file.suffix == ".safetensors" else content)
    assert main(["caption", "--model", str(damaged), str(images / "a.png")]) == WRONG_USAGE
    error = capsys.readouterr().err
    assert "model.safetensors is damaged" in error and "Traceback" not in error


def test_a_checkpoint_that_lacks_weights_is_refused(small_checkpoint: Path, images: Path, capsys, tmp_path: Path):
    from safetensors.torch import load_file, save_file

    incomplete = tmp_path / "incomplete"
    shutil.copytree(small_checkpoint, incomplete)
    weights = load_file(incomplete / "model.safetensors")
    del weights["point_head.norm.weight"]
    save_file(weights, incomplete / "model.safetensors", metadata={"format": "pt"})
    assert main(["caption", "--model", str(incomplete), str(images / "a.png")]) == WRONG_USAGE
    assert "point_head.norm.weight" in capsys.readouterr().err


def test_help_names_every_command():
    result = subprocess.run(
        [sys.executable, "-m", "pixelllm_hf.cli", "--help"], capture_output=True, text=True, timeout=60
    )
    assert result.returncode == OK
    assert all(name in result.stdout for name in all_commands())
