"""Points that stand for a box: its corners, or a grid over it (official.md#losses)."""

from __future__ import annotations

import torch
from torch import Tensor


def solid_grid(per_side: int, *, offset: bool = False) -> Tensor:
    """A grid over the unit square, row by row: (per_side**2, 2) xy.

    With offset the points are the centres of per_side x per_side cells, without it they reach the border.

    >>> solid_grid(2).tolist()
    [[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]
    """
    if per_side < 1 or (per_side == 1 and not offset):
        raise ValueError(
            f"a grid that reaches the border needs 2 points per side and one of cell centres 1, got {per_side}. "
            "Use -1 in `box_points` for the two corners of a box."
        )
    steps = (torch.arange(per_side) + 0.5) / per_side if offset else torch.linspace(0.0, 1.0, per_side)
    return torch.cartesian_prod(steps, steps).flip(-1)


def ring_grid(per_side: int) -> Tensor:
    """The border cells of `solid_grid(per_side, offset=True)`: (4 * per_side - 4, 2) xy, in the reference's order.

    The reference calls it a donut; it lists whole top row, right column, bottom row and left column without repeating.
    """
    if per_side < 2:
        raise ValueError(f"a ring of cells needs at least 2 points per side, got {per_side}. Use `solid_grid` for one.")
    cells = solid_grid(per_side, offset=True).unflatten(0, (per_side, per_side))
    return torch.cat([cells[0], cells[1:-1, -1], cells[-1, 1:], cells[1:, 0]])


def corner_pair() -> Tensor:
    """Top-left and bottom-right corner of the unit square: (2, 2) xy."""
    return torch.tensor([[0.0, 0.0], [1.0, 1.0]])


def place_in_boxes(boxes_xyxy: Tensor, unit_points: Tensor) -> Tensor:
    """Points of the unit square carried over to boxes: (...,4), (P,2) xy -> (...,P,2) xy, in the frame of the boxes."""
    unit_points = unit_points.to(boxes_xyxy)
    near, far = boxes_xyxy[..., None, :2], boxes_xyxy[..., None, 2:]
    return near + (far - near) * unit_points


def box_points(boxes_xyxy: Tensor, per_side: int = -1) -> Tensor:
    """The points that the point loss wants for boxes: (...,4) xyxy -> (...,P,2) xy, frame unchanged.

    per_side -1, as in every released recipe, gives the two corners; otherwise a solid grid that reaches the border.
    """
    return place_in_boxes(boxes_xyxy, corner_pair() if per_side == -1 else solid_grid(per_side))
