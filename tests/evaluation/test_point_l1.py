from __future__ import annotations

import numpy as np
import pytest

from pixelllm_hf.evaluation.point_l1 import point_l1


def test_a_worked_example():
    predictions = np.array([[[[10.0, 20.0], [30.0, 40.0]], [[1.0, 1.0], [2.0, 2.0]]]])  # 1 caption, 2 tokens, 2 points
    targets = np.array([[[[10.0, 30.0], [40.0, 40.0]], [[0.0, 0.0], [0.0, 0.0]]]])  # the second has no location
    # sides 100 x 50: first point (0, .2)/2 to the first target, second (.1, 0)/2 to the second; the mean is .075
    assert point_l1(predictions, targets, np.array([[True, True]]), (100, 50)) == pytest.approx(0.075)


def test_tokens_outside_the_mask_do_not_count():
    predictions, targets = np.array([[[0.0, 0.0], [50.0, 50.0]]]), np.full((1, 2, 1, 2), 50.0)
    assert point_l1(predictions, targets, np.array([[False, True]]), (100, 100)) == 0


def test_an_image_without_places_gives_zero():
    assert point_l1(np.ones((1, 3, 2, 2)), np.zeros((1, 3, 2, 2)), np.ones((1, 3), bool), (10, 10)) == 0


def test_shapes_that_do_not_belong_together_are_named():
    with pytest.raises(ValueError, match=r"\(1, 3, 1, 2\)"):
        point_l1(np.ones((1, 3, 2)), np.ones((1, 4, 1, 2)), np.ones((1, 3), bool), (10, 10))
