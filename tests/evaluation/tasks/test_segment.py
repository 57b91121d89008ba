from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from pixelllm_hf.evaluation.runner import CannotDoError, evaluate
from pixelllm_hf.evaluation.scene_folder import DataFolder
from pixelllm_hf.evaluation.tasks import TASKS
from pixelllm_hf.processing.mask_codec import segmentation_to_mask

TASK = TASKS["segment"]


@pytest.fixture(scope="module")
def images(scene_folder: Path):
    return TASK.read(DataFolder(scene_folder))


def truth(image, e):
    return segmentation_to_mask(e.segmentation, image.size_hw)


def test_true_masks_are_perfect_and_so_are_their_boxes(scene_folder: Path, images, oracle, said):
    model = oracle(images, lambda p: [said(e.text, mask=truth(p, e), mask_score=1.0) for e in p.expressions])
    result = evaluate(model, model, TASK, scene_folder).result
    assert result["empty_masks"] == 0
    assert {"seg_cIoU", "seg_gIoU", "seg_P@0.9", "seg_box_P@0.5", "seg_cIoU_distractor"} <= set(result["metrics"])
    for name, estimate in result["metrics"].items():
        assert estimate["value"] == pytest.approx(1, abs=1e-6), name


def test_ciou_is_the_ratio_of_all_pixels_and_giou_the_mean(scene_folder: Path, images, oracle, said):
    def half(image, e):
        mask = truth(image, e).copy()
        if e.id % 2:
            mask[: mask.shape[0] // 2] = False
        return mask

    model = oracle(images, lambda p: [said(e.text, mask=half(p, e)) for e in p.expressions])
    metrics = evaluate(model, model, TASK, scene_folder).result["metrics"]
    pairs = [(half(p, e).sum(), truth(p, e).sum()) for p in images for e in p.expressions]
    inter, union = np.array(pairs, float).T
    assert metrics["seg_cIoU"]["value"] == pytest.approx(inter.sum() / union.sum(), abs=1e-6)
    assert metrics["seg_gIoU"]["value"] == pytest.approx((inter / union).mean(), abs=1e-6)
    assert metrics["seg_cIoU"]["low"] < metrics["seg_cIoU"]["value"] < metrics["seg_cIoU"]["high"]
    assert metrics["seg_cIoU"]["count"] == len(pairs)


def test_no_mask_counts_as_an_empty_one(scene_folder: Path, images, oracle, said):
    model = oracle(images, lambda image: [said(e.text) for e in image.expressions])
    result = evaluate(model, model, TASK, scene_folder).result
    assert result["metrics"]["seg_cIoU"]["value"] == 0 and result["empty_masks"] == result["expressions"]


@pytest.mark.parametrize(("task", "head"), [("segment", "mask head"), ("dense", "detector")])
def test_a_model_without_the_head_is_told_so(scene_folder: Path, images, oracle, said, task: str, head: str):
    model = oracle(images, lambda image: [])
    model.config = SimpleNamespace(mask_head_config=None, proposal_head_config=None)
    with pytest.raises(CannotDoError, match=head):
        evaluate(model, model, TASKS[task], scene_folder)
