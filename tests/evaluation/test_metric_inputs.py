from __future__ import annotations

import numpy as np
import pytest

from pixelllm_hf.evaluation.metric_inputs import (
    MetricInputError,
    boxes_array,
    caption_pairs,
    first_of_each,
    to_original_xywh,
)


def test_an_image_seen_twice_counts_as_first_seen():
    assert first_of_each([{"image_id": 3, "n": 1}, {"image_id": 3, "n": 2}]) == [{"image_id": 3, "n": 1}]


def test_boxes_are_scaled_by_both_sides_and_clipped():
    boxes = np.array([[10, 10, 20, 30], [-9, -9, -1, -1], [90, 0, 200, 10]])
    expected = [[20, 40, 20, 80], [0, 0, 0, 0], [180, 0, 20, 40]]
    assert to_original_xywh(boxes, (50, 100), (200, 200)).tolist() == expected


@pytest.mark.parametrize("boxes", [[[1, 2, 3]], [[1, 2, 3, float("nan")]], [["a", 0, 0, 0]]])
def test_what_is_no_box_is_refused(boxes):
    with pytest.raises(MetricInputError, match="annotated boxes must"):
        boxes_array(boxes, "annotated boxes")


@pytest.mark.parametrize(
    ("hypotheses", "references", "message"),
    [
        (["a"], [["a"], ["b"]], "one hypothesis per sample"),
        (["a"], [[]], "sample 0 has no reference"),
        ([None], [["a"]], "must be strings"),
        ("a", ["a"], "not a string"),
    ],
)
def test_captions_that_do_not_pair_are_refused(hypotheses, references, message):
    with pytest.raises(MetricInputError, match=message):
        caption_pairs(hypotheses, references)
