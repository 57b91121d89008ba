from __future__ import annotations

import json
from pathlib import Path

import pytest

from pixelllm_hf.evaluation.runner import evaluate
from pixelllm_hf.evaluation.scene_folder import DataFolder
from pixelllm_hf.evaluation.tasks import TASKS
from pixelllm_hf.evaluation.tasks.task import QUICK, EvalSettings

TASK, HOW = TASKS["region"], EvalSettings(resamples=50, meteor="meteor-approx")


@pytest.fixture(scope="module")
def images(scene_folder: Path):
    return TASK.read(DataFolder(scene_folder))


def test_repeating_the_phrases_is_right_in_every_metric(scene_folder: Path, images, oracle, said):
    model = oracle(images, lambda image: [said(f"{r.phrase.capitalize()}.") for r in image.regions])
    result = evaluate(model, model, TASK, scene_folder, settings=HOW).result
    for name in ("exact_match", "object_name", "METEOR", "BLEU-1", "ROUGE-L"):
        assert result["metrics"][name]["value"] == pytest.approx(1), name
    assert any("METEOR" in note for note in result["notes"])
    assert model.asked[0]["boxes"][0][0][2] > model.asked[0]["boxes"][0][0][0], "boxes are asked as xyxy"


def test_the_right_name_alone_is_no_exact_match(scene_folder: Path, images, oracle, said):
    model = oracle(images, lambda image: [said(f"a striped {r.phrase.split(' ', 1)[1]}") for r in image.regions])
    metrics = evaluate(model, model, TASK, scene_folder, settings=QUICK).result["metrics"]
    assert metrics["exact_match"]["value"] == 0 and metrics["object_name"]["value"] == 1
    assert "CIDEr" not in metrics, "a quick look computes no corpus metrics"


def test_naming_another_object_too_is_wrong(scene_folder: Path, images, oracle, said):
    names = sorted(images[0].vocabulary.names)
    other = {r.phrase: next(n for n in names if n not in r.phrase) for p in images for r in p.regions}
    model = oracle(images, lambda p: [said(f"{r.phrase} and a {other[r.phrase]}") for r in p.regions])
    assert evaluate(model, model, TASK, scene_folder, settings=QUICK).result["metrics"]["object_name"]["value"] == 0


def test_boxes_that_cannot_be_asked_about_are_skipped_and_counted(scene_folder: Path, tmp_path: Path, oracle, said):
    regions = json.loads((scene_folder / "visual_genome" / "region_descriptions.json").read_text())
    regions[0]["regions"][0] |= {"width": 0}
    regions[1]["regions"][0] |= {"x": -50, "width": 50}
    (tmp_path / "region_descriptions.json").write_text(json.dumps(regions))
    image_data = (scene_folder / "visual_genome" / "image_data.json").read_bytes()
    (tmp_path / "image_data.json").write_bytes(image_data)
    data = DataFolder(tmp_path, images=scene_folder / "images")
    images = TASK.read(data)
    model = oracle(images, lambda image: [said(r.phrase) for r in image.regions])
    result = evaluate(model, model, TASK, data, settings=QUICK).result
    assert result["skipped_regions"] == 2
    assert result["regions"] == sum(len(record["regions"]) for record in regions) - 2
    assert "object_name" not in result["metrics"], "no names are known without instances.json"
