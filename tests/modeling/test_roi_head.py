from __future__ import annotations

import torch

from pixelllm_hf.modeling.roi_head import StagePredictions, final_detections, sample_boxes


def detections(boxes: list, probabilities: list, proposal_scores: list, **settings):
    """Stages that agree on boxes as they are and on the probability of an object."""
    shape = torch.tensor([boxes], dtype=torch.float32)
    probability = torch.tensor([probabilities])
    logits = torch.stack([torch.zeros_like(probability), probability.logit()], dim=-1)
    stage = StagePredictions(shape, logits, torch.zeros_like(shape))
    settings = dict(score_threshold=0.3, iou_threshold=0.5, count=4) | settings
    return final_detections([stage], torch.tensor([proposal_scores]), torch.tensor([[64.0, 64]]), **settings)


def test_detections_then_padding_then_boxes_below_the_threshold():
    boxes, scores, number = detections(
        [[0, 0, 10, 10], [20, 20, 40, 40], [0, 0, 10, 9]], [0.01, 0.81, 0.01], [0.01, 1.0, 0.01]
    )
    assert number.tolist() == [1]
    torch.testing.assert_close(scores, torch.tensor([[0.9, 0.0, 0.0, -1.0]]))
    assert boxes.tolist() == [[[20, 20, 40, 40], [0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 10, 10]]]


def test_a_score_is_the_geometric_mean_of_both_stages():
    _, scores, _ = detections([[0, 0, 10, 10]], [0.64], [0.25], count=1)
    torch.testing.assert_close(scores, torch.tensor([[0.4]]))


def test_only_the_best_of_overlapping_boxes_is_kept():
    boxes, scores, number = detections(
        [[0, 0, 10, 6], [0, 0, 10, 10], [30, 30, 50, 50]], [0.5, 0.8, 0.6], [0.5, 0.8, 0.6]
    )
    assert number.tolist() == [2]
    assert boxes[0, :2].tolist() == [[0, 0, 10, 10], [30, 30, 50, 50]]


def test_boxes_end_at_the_image():
    boxes, _, _ = detections([[-5, 50, 30, 90]], [0.9], [0.9], count=1)
    assert boxes.tolist() == [[[0, 50, 30, 64]]]


def test_an_image_that_finds_nothing_gives_no_detections():
    boxes, scores, number = detections([[0, 0, 10, 10], [20, 20, 40, 40]], [0.1, 0.1], [0.0, 0.1])
    assert number.tolist() == [0]
    assert (scores <= 0).all()


def test_objects_come_first_and_are_a_limited_share_of_the_sample():
    is_object = torch.zeros(3, 100, dtype=torch.bool)
    is_object[0, ::2], is_object[1, :3] = True, True
    index, counted = sample_boxes(is_object, 40, 0.25, torch.Generator().manual_seed(0))
    chosen = is_object.gather(1, index)
    assert counted.all()
    assert chosen.sum(1).tolist() == [10, 3, 0]
    assert torch.equal(chosen, chosen.sort(dim=1, descending=True).values)
    for row, objects in zip(index, chosen, strict=True):
        assert len(set(row.tolist())) == 40
        assert torch.equal(row[objects], row[objects].sort().values)
        assert torch.equal(row[~objects], row[~objects].sort().values)


def test_surplus_objects_fill_up_a_sample_but_are_not_counted():
    is_object = torch.ones(1, 20, dtype=torch.bool)
    is_object[0, 5:8] = False
    index, counted = sample_boxes(is_object, 12, 0.25, torch.Generator().manual_seed(0))
    assert is_object.gather(1, index)[0, :3].all()
    assert index[0, 3:6].tolist() == [5, 6, 7]
    assert counted[0].tolist() == [True] * 6 + [False] * 6
    assert len(set(index[0].tolist())) == 12


def test_every_box_is_drawn_now_and_then():
    is_object = torch.arange(12)[None] < 6
    generator = torch.Generator().manual_seed(0)
    drawn = torch.zeros(12)
    for _ in range(200):
        index, _ = sample_boxes(is_object, 6, 0.5, generator)
        drawn[index[0]] += 1
    assert ((drawn > 60) & (drawn < 140)).all()


def test_a_sample_is_never_larger_than_what_there_is():
    index, counted = sample_boxes(torch.tensor([[False, True, False]]), 8, 1.0)
    assert index.tolist() == [[1, 0, 2]] and counted.all()
