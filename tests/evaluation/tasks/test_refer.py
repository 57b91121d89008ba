from __future__ import annotations

from pathlib import Path

import pytest

from pixelllm_hf.evaluation.runner import GenerationSettings, evaluate
from pixelllm_hf.evaluation.scene_folder import DataFolder
from pixelllm_hf.evaluation.tasks import TASKS

TASK = TASKS["refer"]


def xyxy(box):
    x, y, w, h = box
    return (x, y, x + w, y + h)


@pytest.fixture(scope="module")
def images(scene_folder: Path):
    return TASK.read(DataFolder(scene_folder))


def test_true_boxes_are_all_hits(scene_folder: Path, images, oracle, said):
    model = oracle(images, lambda image: [said(e.text, box=xyxy(e.box)) for e in image.expressions])
    result = evaluate(model, model, TASK, scene_folder).result
    number = sum(len(image.expressions) for image in images)
    assert result["scenes"] == len(images) and result["expressions"] == number and result["without_box"] == 0
    for name, estimate in result["metrics"].items():
        assert estimate["value"] == pytest.approx(1, abs=1e-6), name
    counts = [result["metrics"][f"P@0.5{suffix}"]["count"] for suffix in ("", "_distractor", "_alone")]
    assert counts[0] == counts[1] + counts[2] == number and counts[1] == result["expressions_with_distractor"] > 0


def test_taking_the_other_one_of_a_pair_is_a_miss_among_distractors_only(scene_folder: Path, images, oracle, said):
    def answer(image):
        return [said(e.text, box=(0, 0, 1, 1) if e.has_distractor else xyxy(e.box)) for e in image.expressions]

    model = oracle(images, answer)
    metrics = evaluate(model, model, TASK, scene_folder).result["metrics"]
    assert metrics["P@0.5_distractor"]["value"] == 0 and metrics["P@0.5_alone"]["value"] == 1
    share = metrics["P@0.5_alone"]["count"] / metrics["P@0.5"]["count"]
    assert metrics["P@0.5"]["value"] == pytest.approx(share)


def test_misses_in_busy_images_alone_are_counted_there(scene_folder: Path, images, oracle, said):
    def objects(image):
        return {e.box for e in image.expressions}

    counts = [len(objects(image)) for image in images]
    assert min(counts) < 5 <= max(counts), "or else the seed shows nothing"

    def answer(image):
        return [said(e.text, box=(0, 0, 1, 1) if len(objects(image)) >= 5 else xyxy(e.box)) for e in image.expressions]

    model = oracle(images, answer)
    metrics = evaluate(model, model, TASK, scene_folder).result["metrics"]
    assert metrics["P@0.5_busy"]["value"] == 0
    assert metrics["P@0.5"]["value"] == pytest.approx(1 - metrics["P@0.5_busy"]["count"] / metrics["P@0.5"]["count"])


def test_an_expression_without_a_box_is_a_miss_and_counted(scene_folder: Path, images, oracle, said):
    model = oracle(images, lambda image: [said(e.text) for e in image.expressions])
    result = evaluate(model, model, TASK, scene_folder).result
    assert result["metrics"]["P@0.5"]["value"] == 0 and result["without_box"] == result["expressions"]


def test_all_expressions_of_an_image_are_asked_in_one_call_without_decoding_settings(
    scene_folder: Path, images, oracle, said
):
    model = oracle(images, lambda image: [said(e.text) for e in image.expressions])
    evaluate(model, model, TASK, scene_folder, generation=GenerationSettings(batch_size=3, num_beams=4))
    assert [call["images"] for call in model.asked] == [3, 3, 2]
    assert model.asked[0]["text"][1] == [e.text for e in images[1].expressions]
    assert all(call["options"] == {} and call["task"] == "refer" for call in model.asked)


def test_scores_that_put_right_boxes_first_have_an_area_of_one(scene_folder: Path, images, oracle, said):
    def answers(image, sign):
        wrong = [e.has_distractor for e in image.expressions]
        return [
            said(e.text, box=(0, 0, 1, 1) if miss else xyxy(e.box), box_score=0.5 - sign * 0.4 * miss, score=0.5)
            for e, miss in zip(image.expressions, wrong, strict=True)
        ]

    for sign, area in ((1, 1.0), (-1, 0.0)):
        model = oracle(images, lambda image, sign=sign: answers(image, sign))
        metrics = evaluate(model, model, TASK, scene_folder).result["metrics"]
        assert metrics["box_score_AUC"]["value"] == area
