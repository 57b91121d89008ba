from __future__ import annotations

import torch

from pixelllm_hf.modeling.box_coding import (
    LARGEST_GROWTH,
    clip_boxes,
    decode_boxes,
    encode_boxes,
    match_boxes,
    pairwise_iou,
)

WEIGHTS = (10.0, 10.0, 5.0, 5.0)


def some_boxes(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(*shape, 2, generator=generator) * 80
    return torch.cat([corner, corner + 4 + torch.rand(*shape, 2, generator=generator) * 40], dim=-1)


def test_offsets_lead_back_to_the_box_they_were_made_from():
    boxes, anchors = some_boxes(2, 9), some_boxes(2, 9, seed=1)
    offsets = encode_boxes(boxes, anchors, WEIGHTS)
    torch.testing.assert_close(decode_boxes(offsets, anchors, WEIGHTS), boxes, rtol=1e-5, atol=1e-4)


def test_a_box_grows_by_a_bounded_factor_only():
    anchors = torch.tensor([[10.0, 10, 20, 30]])
    decoded = decode_boxes(torch.full((1, 4), 1e4), anchors, WEIGHTS)
    size = decoded[:, 2:] - decoded[:, :2]
    torch.testing.assert_close(size, torch.tensor([[10.0, 20]]) * torch.tensor(LARGEST_GROWTH).exp(), rtol=1e-3, atol=0)


def test_overlap_is_what_a_pixel_count_says():
    boxes = some_boxes(12).round()
    area = torch.zeros(12, 128, 128)
    for box, canvas in zip(boxes.int().tolist(), area, strict=True):
        canvas[box[1] : box[3], box[0] : box[2]] = 1
    flat = area.flatten(1)
    overlap = flat @ flat.T
    union = flat.sum(1)[:, None] + flat.sum(1) - overlap
    torch.testing.assert_close(pairwise_iou(boxes, boxes), overlap / union)


def test_boxes_without_an_area_overlap_nothing_and_never_give_nan():
    points = torch.tensor([[5.0, 5, 5, 5], [0, 0, 0, 0]])
    assert not pairwise_iou(points, torch.cat([points, some_boxes(3)])).any()


def test_each_image_is_clipped_to_its_own_size():
    clipped = clip_boxes(torch.tensor([[[-5.0, 3, 200, 90]]]).repeat(2, 1, 1), torch.tensor([[80, 100], [50, 60]]))
    assert clipped.tolist() == [[[0, 3, 100, 80]], [[0, 3, 60, 50]]]


def test_a_box_gets_the_class_of_the_object_it_overlaps_most_or_none():
    gt = torch.tensor([[[0.0, 0, 10, 10], [20, 20, 40, 40], [0, 0, 0, 0]]])
    boxes = torch.tensor([[[0.0, 0, 10, 7], [0, 0, 10, 5], [21, 20, 40, 40], [60, 60, 70, 70]]])
    index, classes = match_boxes(boxes, gt, torch.tensor([[3, 5, 0]]), iou_threshold=0.6)
    assert index.tolist() == [[0, 0, 1, 0]]
    assert classes.tolist() == [[3, 0, 5, 0]]


def test_without_true_boxes_nothing_is_matched():
    index, classes = match_boxes(some_boxes(1, 4), torch.zeros(1, 0, 4), torch.zeros(1, 0).long(), iou_threshold=0.6)
    assert not index.any() and not classes.any()
