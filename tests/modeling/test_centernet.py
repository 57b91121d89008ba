from __future__ import annotations

import torch

from pixelllm_hf.modeling.centernet import (
    CenterNetHead,
    CenterPredictions,
    candidate_boxes,
    cell_centers,
    select_proposals,
)
from pixelllm_hf.modeling.configuration_heads import PixelLLMProposalHeadConfig

STRIDES = (8, 16)
SHAPES = [(2, 3), (1, 2)]


def predictions(logits: list[float], distances: torch.Tensor | None = None) -> CenterPredictions:
    """One image of eight cells."""
    centers, strides = cell_centers(SHAPES, STRIDES)
    distances = torch.ones(1, 8, 4) if distances is None else distances
    return CenterPredictions(torch.tensor([logits]), distances, centers, strides, SHAPES)


def test_cells_lie_at_nominal_strides_rows_first():
    centers, strides = cell_centers(SHAPES, STRIDES)
    assert centers.tolist() == [[4, 4], [12, 4], [20, 4], [4, 12], [12, 12], [20, 12], [8, 8], [24, 8]]
    assert strides.tolist() == [8.0] * 6 + [16.0] * 2


def test_distances_are_in_strides_of_their_level():
    boxes, scores = candidate_boxes(predictions([0, 0, 0, 0, 2, 0, 0, 1]), 2)
    assert boxes.tolist() == [[[4, 4, 20, 20], [8, -8, 40, 24]]]
    torch.testing.assert_close(scores, torch.tensor([[2.0, 1.0]]).sigmoid())


def test_equal_scores_come_in_the_order_of_cells_and_the_worst_cell_never_comes():
    boxes, scores = candidate_boxes(predictions([0.0] * 8), 100)
    middles = (boxes[0, :, :2] + boxes[0, :, 2:]) / 2
    assert torch.equal(middles, cell_centers(SHAPES, STRIDES)[0][:7])
    assert scores.shape == (1, 7)


def test_slots_without_a_proposal_repeat_the_worst_candidate_with_score_zero():
    boxes = torch.tensor([[[0.0, 0, 10, 10], [0, 0, 10, 9], [-30, -30, -5, -5], [50, 50, 90, 90]]])
    proposals, scores = select_proposals(
        boxes, torch.tensor([[0.9, 0.8, 0.7, 0.6]]), torch.tensor([[64.0, 80]]), iou_threshold=0.9, count=4
    )
    assert proposals.tolist() == [[[0, 0, 10, 10], [50, 50, 80, 64], [50, 50, 80, 64], [50, 50, 80, 64]]]
    torch.testing.assert_close(scores, torch.tensor([[0.9, 0.6, 0.0, 0.0]]))


def test_a_new_head_expects_rare_objects_of_sixteen_strides():
    config = PixelLLMProposalHeadConfig(pyramid_channels=8, tower_channels=8, tower_groups=4, num_tower_layers=1)
    head = CenterNetHead(config)
    maps = [torch.randn(1, 16 >> k, 16 >> k, 8) for k in range(5)]
    out = head(maps)
    torch.testing.assert_close(out.logits.sigmoid(), torch.full_like(out.logits, 0.01), rtol=0.5, atol=0)
    torch.testing.assert_close(out.distances, torch.full_like(out.distances, 8.0), rtol=0.1, atol=0)
    assert out.level_shapes == [(16, 16), (8, 8), (4, 4), (2, 2), (1, 1)]
