from __future__ import annotations

import math

import pytest
import torch

from pixelllm_hf.evaluation.mask_matching import match_masks
from pixelllm_hf.evaluation.target_iou import TargetIoU, giou_of_images


def squares(*corners: tuple[int, int], side: int = 8) -> torch.Tensor:
    masks = torch.zeros(len(corners), side, side)
    for mask, (row, column) in zip(masks, corners, strict=True):
        mask[row : row + 4, column : column + 4] = 1
    return masks


def sure(masks: torch.Tensor) -> torch.Tensor:
    return masks * 20 - 10


def test_masks_are_paired_whatever_order_they_come_in():
    masks = squares((0, 0), (4, 4), (0, 4))
    found = match_masks(sure(masks[[2, 0, 1]]), masks)
    assert found.annotated[found.predicted.argsort()].tolist() == [2, 0, 1]


@pytest.mark.parametrize(("ours", "theirs"), [(1, 3), (3, 1), (2, 2)])
def test_there_are_as_many_pairs_as_the_smaller_side_has_masks(ours, theirs):
    masks = squares((0, 0), (4, 4), (0, 4))
    found = match_masks(sure(masks[:ours]), masks[:theirs])
    assert len(found.predicted) == len(found.annotated) == min(ours, theirs)
    assert (found.predicted == found.annotated).all()


def test_all_right_is_one_and_the_number_of_targets_is_right():
    masks, meter = squares((0, 0), (4, 4)), TargetIoU()
    meter.add_question(sure(masks.flip(0)), masks)
    table = meter.to_dict()
    assert table["gIoU"] == pytest.approx(1, abs=1e-4) and table["cIoU"] == pytest.approx(1, abs=1e-4)
    assert table["right_number"] == 1.0 and table["gIoU_few"] == pytest.approx(1, abs=1e-4)
    assert math.isnan(table["empty_accuracy"])


@pytest.mark.parametrize("extra", ["ours", "theirs"])
def test_a_target_too_many_on_either_side_scores_zero(extra):
    masks, meter = squares((0, 0), (4, 4)), TargetIoU()
    meter.add_question(sure(masks if extra == "ours" else masks[:1]), masks[:1] if extra == "ours" else masks)
    assert meter.giou == pytest.approx(0.5, abs=1e-4)
    assert meter.to_dict()["right_number"] == 0.0


def test_the_released_meter_rewards_a_confident_false_positive_and_ours_does_not():
    masks, nothing = squares((0, 0)), torch.zeros(0, 8, 8)
    released, ours = TargetIoU(), TargetIoU()
    released.add_question(sure(masks), nothing, released=True)
    ours.add_question(sure(masks), nothing)
    assert released.giou == pytest.approx(1, abs=1e-4) and ours.giou == 0.0


def test_a_question_without_a_target_is_right_if_nothing_is_found():
    nothing, meter = torch.zeros(0, 8, 8), TargetIoU()
    meter.add_question(nothing, nothing)
    meter.add_question(sure(squares((0, 0))), nothing)
    assert meter.to_dict()["empty_accuracy"] == 0.5


def test_few_and_many_targets_are_counted_apart():
    many, few, meter = squares((0, 0), (4, 4), (0, 4), (4, 0)), squares((0, 0)), TargetIoU()
    meter.add_question(sure(many), many)
    meter.add_question(-sure(few), few)
    assert meter.to_dict()["gIoU_many"] == pytest.approx(1, abs=1e-4)
    assert meter.to_dict()["gIoU_few"] == pytest.approx(0, abs=1e-4)


def test_ignored_pixels_count_on_neither_side():
    masks = squares((0, 0))
    masks[0, 4:] = 255
    meter = TargetIoU()
    meter.add_question(torch.full_like(masks, 10.0), masks, matched=True)
    assert meter.giou == pytest.approx(0.5, abs=1e-4)


def test_matched_masks_of_another_number_are_refused():
    with pytest.raises(ValueError, match="one for each of the 2"):
        TargetIoU().add_question(sure(squares((0, 0))), squares((0, 0), (4, 4)), matched=True)


def test_the_released_giou_divides_by_the_larger_side_of_an_image():
    assert giou_of_images([[(2, 1), (0, 1)]], [1.0, 0.0, 0.0]) == pytest.approx(0.5, abs=1e-4)
