from __future__ import annotations

import math

import numpy as np
import pytest

from pixelllm_hf.evaluation.metric_inputs import MetricInputError, first_of_each, to_original_xywh
from pixelllm_hf.evaluation.referring_precision import referring_precision


def box_records(boxes_xyxy, expression_ids, image_id, input_size_hw, original_size_hw):
    """Records of one image's boxes (N,4) xyxy in pixels of the resized image; rows of padding (id ≤ 0) are dropped."""
    boxes = to_original_xywh(boxes_xyxy, input_size_hw, original_size_hw)
    return [
        {"id": int(expression), "image_id": image_id, "bbox": box.tolist()}
        for expression, box in zip(expression_ids, boxes, strict=True)
        if expression > 0
    ]


def test_boxes_score_as_in_the_official_evaluator(golden):
    part = golden("rec_res")["A"]
    result = referring_precision(part["predictions"], part["annotations"])
    assert result.ids == tuple(expression["id"] for expression in part["per_expression"])
    np.testing.assert_allclose(result.ious, [e["box_iou"] for e in part["per_expression"]], atol=1e-9)
    assert result.precision[0.5] == pytest.approx(part["metrics"]["box_Precision@1"], abs=1e-12)


def test_model_boxes_become_the_official_records(golden):
    part = golden("rec_res")["B"]
    images = first_of_each([{**e, "image_id": e["target"]["image_id"]} for e in part["examples"]])
    predictions, annotations = [], []
    for image in images:
        target = image["target"]
        common = target["refexp_ids"], target["image_id"], target["size"], target["orig_size"]
        predictions += box_records(np.array(image["prediction"]["detection_boxes"]), *common)
        annotations += box_records(np.array(target["boxes"]), *common)
    expected = part["kept_predictions_xywh"]
    assert [p["id"] for p in predictions] == [e["id"] for e in expected]
    np.testing.assert_allclose([p["bbox"] for p in predictions], [e["bbox"] for e in expected], atol=1e-4)
    result = referring_precision(predictions, annotations)
    assert result.count == part["num_counted"]
    assert result.precision[0.5] == part["metrics"]["box_Precision@1"]


def test_exactly_half_is_a_miss():
    annotation = [{"id": 1, "bbox": [0, 0, 10, 20]}]
    assert referring_precision([{"id": 1, "bbox": [0, 0, 10, 10]}], annotation).precision[0.5] == 0


def test_the_last_box_of_an_expression_counts_and_padding_does_not():
    box, far = [0, 0, 10, 10], [50, 50, 10, 10]
    predictions = [{"id": 1, "bbox": far}, {"id": 0, "bbox": far}, {"id": -1, "bbox": far}, {"id": 1, "bbox": box}]
    result = referring_precision(predictions, [{"id": 1, "bbox": box}])
    assert (result.precision[0.5], result.count) == (1, 1)


def test_an_expression_without_a_prediction_is_skipped_and_said():
    annotations = [{"id": i, "bbox": [0, 0, 5, 5]} for i in (1, 2, 3)]
    result = referring_precision(annotations[:1], annotations)
    assert (result.precision[0.5], result.count, result.skipped) == (1, 1, 2)


def test_no_predictions_give_nan():
    result = referring_precision([], [{"id": 1, "bbox": [0, 0, 5, 5]}])
    assert math.isnan(result.precision[0.5])
    assert result.count == 0


def test_an_unknown_expression_is_named():
    with pytest.raises(MetricInputError, match="expression 7"):
        referring_precision([{"id": 7, "bbox": [0, 0, 5, 5]}], [{"id": 1, "bbox": [0, 0, 5, 5]}])


def test_a_record_without_a_box_is_shown():
    with pytest.raises(MetricInputError, match="needs the key 'bbox'"):
        referring_precision([{"id": 1}], [{"id": 1, "bbox": [0, 0, 5, 5]}])
