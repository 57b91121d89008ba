from __future__ import annotations

from pathlib import Path

import pytest

from pixelllm_hf.evaluation.runner import evaluate
from pixelllm_hf.evaluation.scene_folder import DataFolder
from pixelllm_hf.evaluation.tasks import TASKS
from pixelllm_hf.evaluation.tasks.task import EvalSettings

TASK, HOW = TASKS["dense"], EvalSettings(resamples=20, meteor="meteor-approx")


@pytest.fixture(scope="module")
def images(scene_folder: Path):
    return TASK.read(DataFolder(scene_folder))


def found(said, region, score, text=None):
    x, y, w, h = region.box
    return said(text or region.phrase, box=(x, y, x + w, y + h), box_score=score)


def test_true_boxes_with_their_phrases_are_perfect(scene_folder: Path, images, oracle, said):
    model = oracle(images, lambda image: [found(said, r, 0.9) for r in image.regions])
    result = evaluate(model, model, TASK, scene_folder, settings=HOW).result
    assert result["detections"] == result["ground_truth"] == sum(len(p.regions) for p in images)
    assert result["metrics"]["mAP"]["value"] == result["metrics"]["mAP_detection"]["value"] == 1
    assert result["metrics"]["mAP"]["low"] == 1
    assert "METEOR" in result["notes"][0] and "merged at IoU 0.7" in result["notes"][0]


def test_wrong_captions_cost_the_caption_map_alone(scene_folder: Path, images, oracle, said):
    model = oracle(images, lambda image: [found(said, r, 0.9, "qwertz") for r in image.regions])
    metrics = evaluate(model, model, TASK, scene_folder, settings=HOW).result["metrics"]
    assert metrics["mAP"]["value"] == 0 and metrics["mAP_detection"]["value"] == 1


def test_detections_rank_by_their_own_score_and_not_that_of_the_caption(scene_folder: Path, images, oracle, said):
    def answer(image, score_of_wrong):
        wrong = said("a dog", box=(0.0, 0.0, 1.0, 1.0), box_score=score_of_wrong, score=0.99)
        return [*(found(said, r, 0.5) for r in image.regions), wrong]

    values = []
    for score_of_wrong in (0.4, 0.6):
        model = oracle(images, lambda image, score=score_of_wrong: answer(image, score))
        values.append(evaluate(model, model, TASK, scene_folder, settings=HOW).result["metrics"]["mAP"]["value"])
    assert values[0] == 1 and values[1] < 1


def test_nothing_found_is_zero_and_no_error(scene_folder: Path, images, oracle, said):
    model = oracle(images, lambda image: [])
    result = evaluate(model, model, TASK, scene_folder, settings=HOW).result
    assert result["metrics"]["mAP"]["value"] == 0 and result["detections"] == 0
