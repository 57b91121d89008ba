from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pixelllm_hf.modeling import detection_ops
from pixelllm_hf.modeling.box_coding import pairwise_iou
from pixelllm_hf.modeling.detection_ops import first_survivors, greedy_nms, torchvision_ops


class TorchvisionAsDocumented:
    """`torchvision.ops.nms` in loops: a box goes if it overlaps a better survivor by *more* than the threshold."""

    @staticmethod
    def nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
        kept: list[int] = []
        for i in scores.argsort(descending=True, stable=True).tolist():
            if all(pairwise_iou(boxes[i : i + 1], boxes[j : j + 1]).double() <= iou_threshold for j in kept):
                kept.append(i)
        return torch.tensor(kept, dtype=torch.long)


def crowded_boxes(images: int, number: int, seed: int = 0) -> Tensor:
    """Whole numbers, so that many overlaps hit a threshold exactly."""
    generator = torch.Generator().manual_seed(seed)
    corner = torch.randint(0, 8, (images, number, 2), generator=generator).float()
    return torch.cat([corner, corner + torch.randint(2, 6, (images, number, 2), generator=generator)], dim=-1)


def one_by_one(boxes: Tensor, threshold: float) -> Tensor:
    keep = torch.zeros(boxes.shape[:2], dtype=torch.bool)
    for image, of_image in enumerate(boxes):
        overlap = pairwise_iou(of_image, of_image)
        for i in range(len(of_image)):
            keep[image, i] = not (overlap[i, :i][keep[image, :i]] >= threshold).any()
    return keep


@pytest.mark.parametrize("threshold", [0.25, 0.5, 0.6, 0.9])
def test_all_at_once_gives_what_one_by_one_gives(monkeypatch, threshold):
    monkeypatch.setattr(detection_ops, "torchvision_ops", lambda: None)
    boxes = crowded_boxes(3, 120)
    keep = greedy_nms(boxes, threshold)
    assert torch.equal(keep, one_by_one(boxes, threshold))
    assert not keep.all()


@pytest.mark.parametrize("threshold", [0.25, 0.5, 0.6, 0.9])
@pytest.mark.parametrize("ops", [TorchvisionAsDocumented, torchvision_ops()], ids=["as documented", "installed"])
def test_torchvision_gives_the_same_boxes(monkeypatch, ops, threshold):
    if ops is None:
        pytest.skip("torchvision is not installed")
    boxes = crowded_boxes(2, 60, seed=1)
    monkeypatch.setattr(detection_ops, "torchvision_ops", lambda: None)
    plain = greedy_nms(boxes, threshold)
    monkeypatch.setattr(detection_ops, "torchvision_ops", lambda: ops)
    assert torch.equal(greedy_nms(boxes, threshold), plain)


def test_a_suppressed_box_suppresses_nobody(monkeypatch):
    monkeypatch.setattr(detection_ops, "torchvision_ops", lambda: None)
    steps = torch.arange(40.0)
    chain = torch.stack([steps, steps * 0, steps + 3, steps * 0 + 1], dim=-1)  # each overlaps the next by a half
    assert greedy_nms(chain[None], 0.5)[0].tolist() == [i % 2 == 0 for i in range(40)]


def test_an_overlap_of_exactly_the_threshold_suppresses():
    boxes = torch.tensor([[[0.0, 0, 4, 4], [0, 0, 4, 2]]])
    assert greedy_nms(boxes, 0.5).tolist() == [[True, False]]


def test_images_do_not_see_each_other():
    boxes = crowded_boxes(3, 50, seed=2)
    alone = torch.cat([greedy_nms(of_image[None], 0.5) for of_image in boxes])
    assert torch.equal(greedy_nms(boxes, 0.5), alone)


def test_empty_slots_point_at_the_last_box():
    keep = torch.tensor([[True, False, True, False], [False, True, True, True]])
    index, filled = first_survivors(keep, 3)
    assert index.tolist() == [[0, 2, 3], [1, 2, 3]]
    assert filled.tolist() == [[True, True, False], [True, True, True]]
    index, filled = first_survivors(keep, 6)
    assert index[1].tolist() == [1, 2, 3, 3, 3, 3]
    assert filled.sum(1).tolist() == [2, 3]
