"""`pixelllm reason`: questions answered with a mask for each thing that the answer names."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pixelllm_hf.cli import OK, SOME_FAILED, WRONG_USAGE, main
from pixelllm_hf.data.scenes import ObjectLibrary, compose_scene
from pixelllm_hf.processing.grounded_results import GroundedCaption

QUESTION = "what can be eaten?"


@pytest.fixture
def reason(small_pixellm: Path):
    def run_command(*arguments: object, length: int = 24) -> int:
        settings = ["--model", small_pixellm, "--device", "cpu", "--max-new-tokens", length]
        return main(list(map(str, ["reason", *arguments, *settings])))

    return run_command


def test_every_image_is_asked_every_question(reason, images: Path, capsys, tmp_path: Path, records):
    out, drawn = tmp_path / "out.jsonl", tmp_path / "drawn"
    assert reason(images, QUESTION, "--also", "a red dog", "--json", out, "--draw", drawn) == OK
    answers = records(out)
    assert [(Path(r["image"]).name, r["prompt"]) for r in answers] == [
        (name, question) for name in ("a.png", "b.jpg", "c.png") for question in (QUESTION, "a red dog")
    ]
    printed = capsys.readouterr().out
    assert any(len(answer["targets"]) > 1 for answer in answers)
    for answer in answers:
        answer.pop("image")
        result = GroundedCaption.from_dict(answer)
        assert f"  {result.text}\n" in printed
        for target in result.targets:
            assert target.mask.shape == result.image_size[::-1]
            assert f"mask {target.mask.sum()} pixels  fit {target.mask_score:.2f}" in printed
    assert len(list(drawn.iterdir())) == 6


def test_a_target_that_is_cut_off_is_told_and_the_answer_kept(reason, images: Path, capsys, tmp_path: Path, records):
    whole = tmp_path / "whole.jsonl"
    assert reason(images / "a.png", QUESTION, "--json", whole) == OK
    free = records(whole)[0]
    for length in range(1, 24):  # one of these ends within the first target
        capsys.readouterr()
        assert reason(images / "a.png", QUESTION, "--json", tmp_path / f"{length}.jsonl", length=length) == OK
        if "ends within a target" in capsys.readouterr().err:
            (cut,) = records(tmp_path / f"{length}.jsonl")
            assert len(cut["targets"]) < len(free["targets"]) and free["text"].startswith(cut["text"].rstrip(" ."))
            return
    pytest.fail("no length cut a target")


def test_an_interrupted_run_goes_on(reason, images: Path, capsys, tmp_path: Path, records):
    out = tmp_path / "out.jsonl"
    assert reason(images, QUESTION, "--json", out) == OK
    whole = out.read_text()
    out.write_text("".join(whole.splitlines(keepends=True)[:2]))
    assert reason(images, QUESTION, "--json", out, "--resume") == OK
    assert "2 of 3 images are answered already" in capsys.readouterr().err
    assert out.read_text().splitlines()[:2] == whole.splitlines()[:2]
    assert [record["image"] for record in records(out)] == [json.loads(line)["image"] for line in whole.splitlines()]


def test_an_image_that_cannot_be_read_fails_alone(reason, images: Path, tmp_path: Path, records):
    (images / "b.jpg").write_bytes(b"no image")
    assert reason(images, QUESTION, "--json", tmp_path / "out.jsonl") == SOME_FAILED
    found = records(tmp_path / "out.jsonl")
    assert ["error" in record for record in found] == [False, True, False]


def test_masks_become_annotations(reason, images: Path, tmp_path: Path):
    assert reason(images / "a.png", QUESTION, "--json", tmp_path / "coco.json", "--format", "coco") == OK
    content = json.loads((tmp_path / "coco.json").read_text())
    assert content["annotations"] and all(one["segmentation"] for one in content["annotations"])


@pytest.mark.parametrize(
    ("words", "problem"),
    [(["  "], "a question is empty"), (["where is [SEG0]"], "no word to the model"), ([], "question")],
)
def test_what_is_no_question_is_refused(reason, images: Path, capsys, words: list[str], problem: str):
    assert reason(images / "a.png", *words) == WRONG_USAGE
    assert problem in capsys.readouterr().err


def test_an_image_in_the_place_of_the_question_is_noticed(reason, images: Path, capsys):
    assert reason(images / "a.png", images / "c.png") == WRONG_USAGE
    assert "what to ask about them" in capsys.readouterr().err


def test_models_are_refused_by_what_they_lack(reason, images: Path, small_pixellm, small_checkpoint, capsys):
    image = str(images / "a.png")
    assert main(["reason", image, QUESTION, "--model", str(small_checkpoint), "--device", "cpu"]) == WRONG_USAGE
    assert "has no segmentation codebook, which task 'reason' needs" in capsys.readouterr().err
    for task, words, lacks in (
        ("caption", [], "point head"),
        ("refer", ["a dog"], "point head"),
        ("dense", [], "detector"),
    ):
        assert main([task, image, *words, "--model", str(small_pixellm), "--device", "cpu"]) == WRONG_USAGE
        assert lacks in capsys.readouterr().err


def test_where_no_model_is_named_the_embedded_one_that_can_answers_and_is_told(capsys, tmp_path: Path, records):
    scene = compose_scene(900_000_000, 0, ObjectLibrary.builtin())
    scene.image.save(tmp_path / "scene.png")
    out = tmp_path / "out.jsonl"
    assert main(["reason", str(tmp_path / "scene.png"), "which objects are in the picture?", "--json", str(out)]) == OK
    told = capsys.readouterr()
    assert "asking tiny-reason, as photo has no segmentation codebook" in told.err
    (answer,) = records(out)
    assert answer["text"].startswith("the picture shows") and answer["targets"]
    assert main(["reason", str(tmp_path / "scene.png"), "where?", "--model", "photo"]) == WRONG_USAGE
    assert "no segmentation codebook" in capsys.readouterr().err
