from __future__ import annotations

import json
from pathlib import Path

import pytest

from pixelllm_hf.evaluation.runner import evaluate
from pixelllm_hf.evaluation.scene_folder import DataFolder
from pixelllm_hf.evaluation.tasks import TASKS
from pixelllm_hf.evaluation.tasks.task import EvalSettings

TASK, HOW = TASKS["caption"], EvalSettings(resamples=50, meteor="meteor-approx")


@pytest.fixture(scope="module")
def images(scene_folder: Path):
    return TASK.read(DataFolder(scene_folder))


def test_the_reference_itself_is_a_perfect_caption(scene_folder: Path, images, oracle, said):
    model = oracle(images, lambda image: [said(image.captions[0])])
    result = evaluate(model, model, TASK, scene_folder, settings=HOW).result
    for name in ("object_f1", "METEOR", "BLEU-4", "ROUGE-L"):
        assert result["metrics"][name]["value"] == pytest.approx(1), name
    assert result["metrics"]["CIDEr"]["count"] == result["captions"] == len(images)


def test_an_object_too_much_costs_precision_and_one_too_few_recall(scene_folder: Path, images, oracle, said):
    names = sorted(images[0].vocabulary.names)

    def answer(image):
        absent = next(name for name in names if name not in image.names)
        return [said(" and ".join([f"a {absent}", *(f"a {name}" for name in sorted(image.names)[1:])]))]

    model = oracle(images, answer)
    metrics = evaluate(model, model, TASK, scene_folder, settings=HOW).result["metrics"]
    sizes = [len(image.names) for image in images]
    share = (sum(sizes) - len(sizes)) / sum(sizes)
    assert metrics["object_recall"]["value"] == metrics["object_precision"]["value"] == pytest.approx(share)


def test_captions_without_known_objects_have_no_object_metrics(scene_folder: Path, tmp_path: Path, oracle, said):
    (tmp_path / "captions.json").write_bytes((scene_folder / "captions.json").read_bytes())
    data = DataFolder(tmp_path, images=scene_folder / "images")
    model = oracle(TASK.read(data), lambda image: [said("a dog")])
    assert "object_f1" not in evaluate(model, model, TASK, data, settings=HOW).result["metrics"]


def test_an_image_whose_captions_are_all_empty_is_left_out(scene_folder: Path, tmp_path: Path):
    coco = json.loads((scene_folder / "captions.json").read_text())
    first = coco["images"][0]["id"]
    for annotation in coco["annotations"]:
        annotation["caption"] = " " if annotation["image_id"] == first else annotation["caption"]
    (tmp_path / "captions.json").write_text(json.dumps(coco))
    kept = TASK.read(DataFolder(tmp_path, images=scene_folder / "images"))
    assert [p.image_id for p in kept] == [str(image["id"]) for image in coco["images"][1:]]
