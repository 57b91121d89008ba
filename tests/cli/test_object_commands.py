"""`pixelllm refer`, `segment`, `region` and `dense`, and what `--format` makes of their answers."""

from __future__ import annotations

import json
import shutil
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import pytest
from PIL import Image

from pixelllm_hf.cli import OK, SOME_FAILED, WRONG_USAGE, main
from pixelllm_hf.processing.grounded_results import GroundedCaption


def test_an_expression_gets_a_box_in_each_image(run, images: Path, capsys, tmp_path: Path, records):
    assert run("refer", images, "a dog", "--json", tmp_path / "out.jsonl", "--draw", tmp_path / "drawn") == OK
    answers = records(tmp_path / "out.jsonl")
    assert [Path(r["image"]).name for r in answers] == ["a.png", "b.jpg", "c.png"]
    printed = capsys.readouterr().out
    for answer in answers:
        width, height = answer["image_size"]
        x0, y0, x1, y1 = answer["box"]
        assert answer["text"] == "a dog" and answer["mask"] is None
        assert 0 <= x0 <= x1 <= width and 0 <= y0 <= y1 <= height
        assert f"({x0:6.1f}, {y0:6.1f}, {x1:6.1f}, {y1:6.1f})" in printed
    assert sorted(p.name for p in (tmp_path / "drawn").iterdir()) == ["a.png", "b.png", "c.png"]


def test_several_expressions_are_answered_together_and_drawn_on_one_image(run, images, tmp_path: Path, records):
    arguments = ["a dog", "--also", "two cats", "--json", tmp_path / "out.jsonl", "--draw", tmp_path / "out.png"]
    assert run("refer", images / "a.png", *arguments) == OK
    assert [r["text"] for r in records(tmp_path / "out.jsonl")] == ["a dog", "two cats"]
    assert [p.name for p in tmp_path.glob("*.png")] == ["out.png"]


def test_an_expression_that_cannot_be_read_is_no_failed_image(run, images, capsys, tmp_path: Path, records):
    asked = ["a dog", "--also", "\U0001f986", "--also", "\u9e2d\u5b50", "--json", tmp_path / "out.jsonl"]
    assert run("refer", images / "a.png", *asked) == SOME_FAILED
    told = capsys.readouterr().err
    assert told.count("the tokenizer has no tokens") == 2 and "inputs failed" not in told
    assert [r.get("text") for r in records(tmp_path / "out.jsonl")].count("a dog") == 1


def test_a_segmented_object_has_a_mask_of_the_size_of_its_image(run, images, capsys, tmp_path: Path, records):
    arguments = ["--json", tmp_path / "out.jsonl", "--draw", tmp_path / "out.png"]
    assert run("segment", images / "a.png", "a dog", *arguments) == OK
    (record,) = records(tmp_path / "out.jsonl")
    record.pop("image")
    result = GroundedCaption.from_dict(record)
    assert result.mask.shape == (40, 60) and result.mask_score is not None
    assert f"mask {result.mask.sum()} pixels" in capsys.readouterr().out
    assert (tmp_path / "out.png").is_file()


def test_boxes_and_points_are_described_one_by_one(run, images: Path, tmp_path: Path, records):
    places = ["--box", "2,2,30,30", "--point", "10,20", "--point", "10,20,30,35"]
    arguments = ["--json", tmp_path / "out.jsonl", "--draw", tmp_path / "drawn"]
    assert run("region", images / "a.png", *places, *arguments) == OK
    box, point, points = records(tmp_path / "out.jsonl")
    assert box["prompt_box"] == [2, 2, 30, 30] and box["prompt_points"] is None
    assert point["prompt_points"] == [[10, 20, 1]] and point["prompt_box"] is None
    assert points["prompt_points"] == [[10, 20, 1], [30, 35, 1]]
    assert len(list((tmp_path / "drawn").iterdir())) == 3


def test_found_objects_come_best_first_and_can_be_limited(run, images: Path, tmp_path: Path, records):
    assert run("dense", images / "a.png", "--json", tmp_path / "all.jsonl", "--draw", tmp_path / "out.png") == OK
    scores = [r["box_score"] for r in records(tmp_path / "all.jsonl")]
    assert scores == sorted(scores, reverse=True)
    run("dense", images / "a.png", "--json", tmp_path / "two.jsonl", "--max-results", 2)
    assert [r["box_score"] for r in records(tmp_path / "two.jsonl")] == pytest.approx(scores[:2])


def test_nothing_found_is_an_answer_and_no_failure(run, images: Path, capsys, tmp_path: Path):
    nothing = ["--min-score", "1", "--draw", tmp_path / "out.png", "--json", tmp_path / "out.json", "--format", "coco"]
    assert run("dense", images / "a.png", *nothing) == OK
    assert "nothing found" in capsys.readouterr().out
    written = json.loads((tmp_path / "out.json").read_text())
    assert written["images"][0]["width"] == 60 and written["annotations"] == []
    with Image.open(tmp_path / "out.png") as drawing:
        assert drawing.width >= 60


def test_a_coco_file_holds_all_images_and_pycocotools_reads_it(run, images: Path, tmp_path: Path):
    api = pytest.importorskip("pycocotools.coco")
    (images / "broken.png").write_bytes(b"no image")
    arguments = ["--json", tmp_path / "out.json", "--format", "coco", "--also", "two cats"]
    assert run("segment", images, "a dog", *arguments) == SOME_FAILED
    with redirect_stdout(StringIO()):
        coco = api.COCO(str(tmp_path / "out.json"))
    assert [i["file_name"] for i in coco.loadImgs(coco.getImgIds())] == ["a.png", "b.jpg", "c.png"]
    annotations = coco.loadAnns(coco.getAnnIds())
    assert [a["caption"] for a in annotations] == ["a dog", "two cats"] * 3
    assert coco.annToMask(annotations[0]).shape == (40, 60)


def test_labelme_files_lie_beside_each_other_and_point_to_their_images(run, images: Path, capsys, tmp_path: Path):
    assert run("refer", images, "a dog", "--json", tmp_path / "marks", "--format", "labelme") == OK
    assert sorted(p.name for p in (tmp_path / "marks").iterdir()) == ["a.json", "b.json", "c.json"]
    record = json.loads((tmp_path / "marks" / "b.json").read_text())
    assert (tmp_path / "marks" / record["imagePath"]).resolve() == (images / "b.jpg").resolve()
    assert record["shapes"][0]["label"] == "a dog"
    assert run("refer", images, "a dog", "--json", tmp_path / "one.json", "--format", "labelme") == WRONG_USAGE
    assert "a folder" in capsys.readouterr().err
    assert run("refer", images / "a.png", "a dog", "--json", tmp_path / "one.json", "--format", "labelme") == OK


@pytest.mark.parametrize(("command", "named"), [("segment", "mask head"), ("dense", "detector")])
def test_a_model_without_the_head_says_so(small_checkpoint: Path, images, capsys, tmp_path: Path, command, named):
    plain = tmp_path / "plain"
    shutil.copytree(small_checkpoint, plain)
    config = json.loads((plain / "config.json").read_text())
    config |= {"mask_head_config": None, "proposal_head_config": None}
    (plain / "config.json").write_text(json.dumps(config))
    expression = ["a dog"] if command == "segment" else []
    assert main([command, str(images / "a.png"), *expression, "--model", str(plain)]) == WRONG_USAGE
    error = capsys.readouterr().err
    assert f"no {named}" in error and "--model" in error and "Traceback" not in error


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["refer"], "image"),
        (["refer", "a.png"], "expression"),
        (["refer", "a.png", "  "], "empty"),
        (["segment", "a.png", "a dog", "--also", ""], "empty"),
        (["region", "a.png"], "--box x0,y0,x1,y1"),
        (["region", "a.png", "--point", "1"], "two numbers"),
        (["region", "a.png", "--point", "1,2,3"], "two numbers"),
        (["region", "a.png", "--point", "nan,2"], "two numbers"),
        (["region", "a.png", "--box", "1,2,1,4"], "left top"),
        (["dense", "a.png", "--min-score", "7"], "0 to 1"),
        (["dense", "a.png", "--max-results", "0"], "at least 1"),
        (["dense", "a.png", "--box", "1,2,3,4"], "--box"),
        (["dense", "a.png", "--format", "xml"], "xml"),
        (["dense", "a.png", "--format", "coco"], "add --json"),
        (["fly", "a.png"], "fly"),
    ],
)
def test_wrong_usage_is_exit_code_2_and_no_traceback(arguments: list[str], told: str, capsys):
    assert main(arguments) == WRONG_USAGE
    error = capsys.readouterr().err
    assert told in error and "Traceback" not in error


def test_an_image_in_the_place_of_the_expression_is_noticed(images: Path, capsys):
    assert main(["refer", str(images / "a.png"), str(images / "c.png")]) == WRONG_USAGE
    assert "is a file or folder" in capsys.readouterr().err
