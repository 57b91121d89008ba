from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from pixelllm_hf.conversion.parity.golden import Golden
from pixelllm_hf.modeling.point_grids import box_points, corner_pair, place_in_boxes, ring_grid, solid_grid

GOLDEN = Path(__file__).parents[1] / "golden" / "pixelllm" / "utils.safetensors"


@pytest.fixture
def golden() -> Golden:
    return Golden.read(GOLDEN)


def rows_of(points: Tensor) -> set[tuple[float, ...]]:
    return {tuple(point) for point in points.tolist()}


def test_grids_equal_the_reference(golden):
    torch.testing.assert_close(corner_pair(), golden.outputs["grid_corners"])
    torch.testing.assert_close(ring_grid(4), golden.outputs["grid_donut_4"])
    torch.testing.assert_close(solid_grid(2), golden.outputs["grid_solid_2_noffset"])
    torch.testing.assert_close(solid_grid(3, offset=True), golden.outputs["grid_solid_3_offset"])


def test_points_of_boxes_equal_the_reference(golden):
    boxes = golden.inputs["boxes"]
    torch.testing.assert_close(box_points(boxes), golden.outputs["gt_points"])
    torch.testing.assert_close(box_points(boxes, 2), golden.outputs["prompt_points"])


@pytest.mark.parametrize("per_side", [2, 3, 5])
def test_a_ring_is_the_border_of_the_solid_grid(per_side):
    centre = slice(1, per_side - 1)
    solid = solid_grid(per_side, offset=True).unflatten(0, (per_side, per_side))
    ring = ring_grid(per_side)
    assert len(rows_of(ring)) == len(ring) == 4 * per_side - 4
    assert rows_of(ring) == rows_of(solid.flatten(0, 1)) - rows_of(solid[centre, centre].flatten(0, 1))


def test_points_follow_their_box():
    boxes = torch.tensor([[10.0, 20.0, 30.0, 60.0]])
    moved = place_in_boxes(boxes + torch.tensor([5.0, 7.0, 5.0, 7.0]), solid_grid(3))
    torch.testing.assert_close(moved, place_in_boxes(boxes, solid_grid(3)) + torch.tensor([5.0, 7.0]))


def test_a_grid_without_points_is_refused():
    with pytest.raises(ValueError, match="got 1"):
        solid_grid(1)
    with pytest.raises(ValueError, match="got 0"):
        box_points(torch.zeros(4), 0)
    with pytest.raises(ValueError, match="got 1"):
        ring_grid(1)
    assert solid_grid(1, offset=True).tolist() == [[0.5, 0.5]]
