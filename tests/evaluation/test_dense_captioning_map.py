from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from pixelllm_hf.evaluation.dense_captioning_map import (
    average_precision,
    dense_captioning_map,
    ground_truth_of,
    match_records,
    merge_ground_truth,
)
from pixelllm_hf.evaluation.meteor import meteor
from pixelllm_hf.evaluation.metric_inputs import MetricInputError

CASES = ["main", *range(8)]


def approximate(candidates, references):
    """The scorer that runs everywhere, and quickly."""
    scores = meteor(candidates, references, variant="meteor-approx")
    return scores.samples, scores.variant


evaluate = partial(dense_captioning_map, caption_scorer=approximate)


def case_of(golden, name):
    values = golden("densecap")
    return values["main"] if name == "main" else values["hand_made"][name]


def scorer_of(case):
    """METEOR as the jar gave it, and a check that the records are the official ones."""

    def scorer(candidates, references):
        assert list(candidates) == [pair["candidate"] for pair in case["meteor_pairs"]]
        assert [list(r) for r in references] == [pair["references"] for pair in case["meteor_pairs"]]
        return np.array([pair["meteor"] for pair in case["meteor_pairs"]]), "stored"

    return scorer


@pytest.mark.parametrize("name", CASES)
def test_every_ap_is_the_official_one(golden, name):
    case = case_of(golden, name)
    result = dense_captioning_map(
        case["predictions"],
        case["annotations"],
        image_ids=case["images"],
        caption_scorer=scorer_of(case),
        **case.get("options", {}),
    )
    numbers = result.to_dict()
    assert {key: numbers[key] for key in case["metrics"]} == pytest.approx(case["metrics"], abs=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_ground_truth_merges_as_in_the_official_evaluator(golden, name):
    case = case_of(golden, name)
    truth = ground_truth_of(case["annotations"], case["images"])
    for image, expected in case["merged_ground_truth"].items():
        assert_merged(truth[int(image)], expected)


def test_merging_alone_matches(golden):
    for case in golden("densecap")["merging"]:
        boxes = np.array([box["bbox"] for box in case["ground_truth"]])
        assert_merged(merge_ground_truth(boxes, [box["caption"] for box in case["ground_truth"]]), case["merged"])


def assert_merged(boxes, expected):
    assert [list(box.captions) for box in boxes] == [box["captions"] for box in expected]
    for box, other in zip(boxes, expected, strict=True):
        np.testing.assert_allclose(box.bbox, other["bbox"], rtol=1e-6)


def test_without_java_the_ap_stays_close(golden):
    case = golden("densecap")["main"]
    result = evaluate(case["predictions"], case["annotations"], image_ids=case["images"])
    assert result.map == pytest.approx(case["metrics"]["mAP"], abs=0.005)
    assert "METEOR" in result.variant
    assert "merged" in result.variant


def test_a_box_of_zero_area_is_not_looked_for():
    assert merge_ground_truth(np.array([[1.0, 1, 0, 5]]), ["thin"]) == []


def test_a_used_box_makes_the_second_prediction_false_though_another_is_free():
    boxes = [
        {"image_id": 1, "bbox": [0, 0, 10, 10], "caption": "a"},
        {"image_id": 1, "bbox": [4, 0, 10, 10], "caption": "b"},
    ]
    predictions = [
        {"image_id": 1, "bbox": [0, 0, 10, 10], "caption": "a", "score": 0.9},
        {"image_id": 1, "bbox": [1, 0, 10, 10], "caption": "b", "score": 0.8},
    ]
    records = match_records(predictions, ground_truth_of(boxes, [1]), [1])
    assert records.matched.tolist() == [True, False]


def test_average_precision_of_a_worked_example():
    # recalls 1/2 (precision 1) and 1 (precision 2/3): 51 points at 1, 49 at 2/3
    assert average_precision(np.array([True, False, True]), 2) == pytest.approx(0.51 + 0.49 * 2 / 3)


def test_drawing_an_image_twice_is_evaluating_two_copies():
    rng = np.random.default_rng(0)
    annotations, predictions = [], []
    for image in range(6):
        for box in rng.uniform(5, 60, (4, 4)):
            annotations.append({"image_id": image, "bbox": box.tolist(), "caption": "a dog"})
            moved = box + rng.normal(0, 4, 4)
            predictions.append({"image_id": image, "bbox": moved.tolist(), "caption": "a dog", "score": rng.random()})
    weights = np.array([2, 0, 1, 3, 1, 1])
    copies = [(image, copy) for image, weight in enumerate(weights) for copy in range(weight)]
    drawn = [
        [{**r, "image_id": 10 * image + copy} for image, copy in copies for r in records if r["image_id"] == image]
        for records in (predictions, annotations)
    ]
    redrawn, copied = evaluate(predictions, annotations).redrawn(weights), evaluate(*drawn)
    assert redrawn.map == pytest.approx(copied.map) and redrawn.map_detection == pytest.approx(copied.map_detection)


@pytest.mark.parametrize(("predicted", "annotated"), [(0, 1), (1, 0), (0, 0)])
def test_nothing_on_a_side_is_zero_and_no_error(predicted, annotated):
    box = {"image_id": 1, "bbox": [0, 0, 5, 5], "caption": "a", "score": 1.0}
    assert evaluate([box] * predicted, [box] * annotated, image_ids=[1]).map == 0


def test_images_without_predictions_count_in_recall():
    box = {"image_id": 1, "bbox": [0, 0, 5, 5], "caption": "a dog", "score": 1.0}
    assert evaluate([box], [box, {**box, "image_id": 2}]).map == pytest.approx(0.51)


def test_a_prediction_for_another_image_is_refused():
    box = {"image_id": 1, "bbox": [0, 0, 5, 5], "caption": "a", "score": 1.0}
    with pytest.raises(MetricInputError, match="image 2"):
        evaluate([{**box, "image_id": 2}], [box])


def test_a_score_that_is_no_number_is_refused():
    box = {"image_id": 1, "bbox": [0, 0, 5, 5], "caption": "a", "score": float("nan")}
    with pytest.raises(MetricInputError, match="scores of image 1"):
        evaluate([box], [box])
