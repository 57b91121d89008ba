from __future__ import annotations

import math

import numpy as np
import pytest

from pixelllm_hf.evaluation.metric_inputs import MetricInputError
from pixelllm_hf.evaluation.segmentation_iou import cumulative_iou, mask_from_logits, segmentation_iou
from pixelllm_hf.processing.mask_codec import decode_rle


def test_masks_score_as_in_the_official_evaluator(golden):
    part = golden("rec_res")["A"]
    sizes = {image["id"]: (image["height"], image["width"]) for image in part["images"]}
    result = segmentation_iou(part["predictions"], part["annotations"], image_sizes=sizes)
    assert result.intersections.tolist() == [e["inter"] for e in part["per_expression"]]
    assert result.unions.tolist() == [e["union"] for e in part["per_expression"]]
    np.testing.assert_allclose(result.box_ious, [e["mask_box_iou"] for e in part["per_expression"]], atol=1e-9)
    for name in ("seg_cIoU", "seg_gIoU", "seg_AP", "seg_box_Precision@1"):
        assert result.to_dict()[name] == pytest.approx(part["metrics"][name], abs=1e-9)


def test_logits_become_the_official_masks(golden):
    for case in golden("rec_res")["C"]:
        logits = np.array(case["logits"], np.float32)
        mask = mask_from_logits(logits, case["size"], case["padded_size"], case["orig_size"])
        assert (mask != decode_rle(case["mask_rle"])).mean() <= 0.005


def test_two_empty_masks_are_no_agreement():
    empty = np.zeros((4, 4), bool)
    result = segmentation_iou([{"id": 1, "segmentation": empty}], [{"id": 1, "segmentation": empty}])
    assert (result.giou, result.ciou, result.precision[0.5]) == (0, 0, 0)


def test_large_masks_weigh_more_in_ciou_but_not_in_giou():
    big, small, nothing = np.ones((8, 8), bool), np.zeros((8, 8), bool), np.zeros((8, 8), bool)
    small[0, 0] = True
    predictions = [{"id": 1, "segmentation": big}, {"id": 2, "segmentation": nothing}]
    annotations = [{"id": 1, "segmentation": big}, {"id": 2, "segmentation": small}]
    result = segmentation_iou(predictions, annotations)
    assert result.giou == pytest.approx(0.5, abs=1e-6)
    assert result.ciou == pytest.approx(64 / 65, abs=1e-6)


def test_an_empty_polygon_list_is_an_empty_mask():
    bitmap = np.ones((4, 4), bool)
    result = segmentation_iou([{"id": 1, "segmentation": bitmap}], [{"id": 1, "segmentation": []}])
    assert result.intersections.tolist() == [0]


def test_polygons_on_both_sides_need_the_size_of_the_image():
    square = [{"id": 1, "image_id": 9, "segmentation": [[0, 0, 3, 0, 3, 3, 0, 3]]}]
    with pytest.raises(MetricInputError, match="image_sizes"):
        segmentation_iou(square, square)
    assert segmentation_iou(square, square, image_sizes={9: (4, 4)}).precision[0.5] == 1


def test_masks_of_two_sizes_are_refused():
    with pytest.raises(MetricInputError, match=r"\(4, 4\).*\(5, 4\)"):
        segmentation_iou([{"id": 1, "segmentation": np.ones((4, 4))}], [{"id": 1, "segmentation": np.ones((5, 4))}])


def test_nothing_predicted_gives_nan():
    assert math.isnan(segmentation_iou([], []).ciou)
    assert math.isnan(cumulative_iou(np.zeros(0), np.zeros(0)))
