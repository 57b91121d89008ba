from __future__ import annotations

import numpy as np

from pixelllm_hf.evaluation.box_iou import aligned_box_iou, box_iou_matrix


def test_boxes_that_touch_do_not_overlap():
    assert aligned_box_iou(np.array([0.0, 0, 5, 5]), np.array([5.0, 0, 5, 5])) == 0


def test_a_box_without_area_overlaps_not_even_itself():
    assert aligned_box_iou(np.array([1.0, 1, 0, 5]), np.array([1.0, 1, 0, 5])) == 0


def test_the_matrix_holds_all_pairs_and_is_symmetric():
    boxes = np.random.default_rng(0).uniform(1, 20, (6, 4))
    matrix = box_iou_matrix(boxes, boxes)
    np.testing.assert_allclose(matrix, matrix.T)
    np.testing.assert_allclose(np.diag(matrix), 1)
    assert matrix[2, 5] == aligned_box_iou(boxes[2], boxes[5])


def test_the_epsilon_is_added_to_the_union():
    box = np.array([0.0, 0, 1, 1])
    assert aligned_box_iou(box, box, epsilon=1.0) == 0.5
