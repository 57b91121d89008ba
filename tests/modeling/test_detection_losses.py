from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from pixelllm_hf.conversion.parity.detection import proposal_losses as golden_proposal_losses
from pixelllm_hf.conversion.parity.golden import Golden
from pixelllm_hf.modeling.box_coding import encode_boxes
from pixelllm_hf.modeling.centernet import cell_centers
from pixelllm_hf.modeling.detection_losses import (
    NO_TARGET,
    center_targets,
    distance_loss,
    heatmap_losses,
    roi_losses,
)

GOLDEN = Path(__file__).parents[1] / "golden" / "pixelllm" / "losses.safetensors"
RANGES = ((0, 40), (32, 80), (64, 160), (128, 320), (256, 50000))
STRIDES = (8, 16, 32, 64, 128)
SHAPES = [(16, 16), (8, 8), (4, 4), (2, 2), (1, 1)]
CELLS = [height * width for height, width in SHAPES]
WEIGHTS = (10.0, 10.0, 5.0, 5.0)


def targets(boxes: Tensor):
    return center_targets(boxes, *cell_centers(SHAPES, STRIDES), RANGES, CELLS)


def test_targets_and_losses_equal_the_reference():
    golden = Golden.read(GOLDEN)
    for name, value in golden_proposal_losses(golden).items():
        expected = golden.outputs[name].reshape(value.shape)
        torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}")


def test_an_object_has_its_peak_on_the_levels_of_its_size_only():
    small, large = torch.tensor([[[20.0, 20, 36, 36]]]), torch.tensor([[[8.0, 8, 120, 120]]])
    for box, levels in ((small, [0]), (large, [1, 2])):  # half-diagonals of 11 and 79 pixels
        peaks = (targets(box).heatmap[0] == 1).split(CELLS)
        assert [level for level, of_level in enumerate(peaks) if of_level.any()] == levels
        assert all(of_level.sum() <= 1 for of_level in peaks)


def test_levels_of_other_sizes_see_the_gaussian_but_no_peak():
    of_level = targets(torch.tensor([[[17.0, 17, 34, 34]]])).heatmap[0].split(CELLS)  # middle at 25.5, 25.5
    nearest = (25.5 - 24) ** 2 * 2 / 16  # the cell at 24, 24 of stride 16; the radius is the smallest, 4 pixels
    torch.testing.assert_close(of_level[1].max(), torch.tensor(-nearest).exp())


def test_a_cell_between_two_objects_regresses_the_nearer_one():
    boxes = torch.tensor([[[16.0, 16, 48, 48], [24.0, 24, 56, 56]]])
    centers, strides = cell_centers(SHAPES, STRIDES)
    out = targets(boxes)
    cell = (centers == torch.tensor([44.0, 44])).all(1) & (strides == 8)
    assert (out.distances[0][cell] * 8).tolist() == [[20, 20, 12, 12]]


def test_an_image_without_objects_has_nothing_to_find():
    out = targets(torch.zeros(1, 3, 4))
    assert not out.heatmap.any()
    assert (out.distances < NO_TARGET / 1000).all()
    loss, number = distance_loss(torch.ones(1, sum(CELLS), 4), out.distances)
    assert loss == 0 and number == 1
    positive, negative, number = heatmap_losses(torch.zeros(1, sum(CELLS)), out.heatmap)
    assert positive == 0 and negative > 0 and number == 1


def test_right_distances_cost_nothing_and_get_a_finite_gradient_everywhere():
    out = targets(torch.tensor([[[20.0, 20, 36, 36]]]))
    right = out.distances.clamp(min=0).requires_grad_()
    loss, _ = distance_loss(right, out.distances)
    loss.backward()
    torch.testing.assert_close(loss, torch.tensor(0.0), rtol=0, atol=1e-5)
    assert right.grad.isfinite().all()


def test_padding_rows_change_nothing():
    boxes = torch.tensor([[[20.0, 20, 36, 36], [8, 8, 120, 120]]])
    bare, padded = targets(boxes), targets(torch.cat([torch.zeros(1, 1, 4), boxes, torch.zeros(1, 5, 4)], dim=1))
    assert torch.equal(bare.heatmap, padded.heatmap)
    assert torch.equal(bare.distances, padded.distances)


@pytest.fixture
def rois() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    boxes = torch.tensor([[[0.0, 0, 10, 10], [5, 5, 30, 40], [7, 7, 7, 7], [1, 1, 9, 20]]])
    return {
        "class_logits": torch.randn(1, 4, 2, generator=generator),
        "offsets": torch.randn(1, 4, 4, generator=generator),
        "boxes": boxes,
        "matched_boxes": boxes + torch.tensor([1.0, 2, 3, 5]),
        "matched_classes": torch.tensor([[1, 0, 1, 1]]),
        "counted": torch.tensor([[True, True, True, False]]),
    }


def test_box_head_losses_count_boxes_with_an_area_that_take_part(rois):
    class_loss, box_loss = roi_losses(**rois, box_weights=WEIGHTS)
    log_probs = rois["class_logits"].log_softmax(-1)[0]
    torch.testing.assert_close(class_loss, -(log_probs[0, 1] + log_probs[1, 0]) / (2 + 1e-4))
    wanted = encode_boxes(rois["matched_boxes"][0, 0], rois["boxes"][0, 0], WEIGHTS)
    torch.testing.assert_close(box_loss, (rois["offsets"][0, 0] - wanted).abs().sum() / 4)


def test_boxes_that_do_not_take_part_get_no_gradient(rois):
    logits, offsets = (rois[name].requires_grad_() for name in ("class_logits", "offsets"))
    sum(roi_losses(**rois, box_weights=WEIGHTS)).backward()
    assert logits.grad[0, :2].any() and not logits.grad[0, 2:].any()
    assert offsets.grad[0, :1].any() and not offsets.grad[0, 1:].any()
