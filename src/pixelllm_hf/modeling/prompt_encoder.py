"""SAM's prompt encoder: boxes and points become sparse tokens, cells get positions (official.md#prompt-encoder)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from transformers import initialization as init

from .configuration_pixelllm import PixelLLMPromptConfig
from .initialized_layers import InitializesItself

# Rows of `point_embeddings`.
OUTSIDE, INSIDE, TOP_LEFT, BOTTOM_RIGHT = range(4)


class LearnedTokens(InitializesItself, nn.Embedding):
    """Learnt tokens that start from a unit normal, as in SAM: they are queries and positions at once, and tokens that
    start near zero would all look at the same places for a long time.
    """

    @torch.no_grad()
    def init_weights(self) -> None:
        init.normal_(self.weight)


class FourierPositions(InitializesItself, nn.Module):
    """Random Fourier features of places in 0..1. The random matrix belongs to the checkpoint."""

    positional_encoding_gaussian_matrix: Tensor

    def __init__(self, width: int, scale: float):
        super().__init__()
        self.scale = scale
        self.register_buffer("positional_encoding_gaussian_matrix", torch.zeros(2, width // 2), persistent=True)

    @torch.no_grad()
    def init_weights(self) -> None:
        init.normal_(self.positional_encoding_gaussian_matrix, std=self.scale)

    def forward(self, points_xy: Tensor) -> Tensor:
        """points_xy (…,2), 0..1 -> float32 (…,D)."""
        matrix = self.positional_encoding_gaussian_matrix.float()
        # Not a matmul: autocast and TF32 would round the angles, and a place is lost in a rounded angle.
        angles = 2 * math.pi * ((2 * points_xy.float() - 1)[..., None] * matrix).sum(-2)
        return torch.cat([angles.sin(), angles.cos()], dim=-1)


def grid_positions(layer: FourierPositions, height: int, width: int) -> Tensor:
    """Positions of the centres of a grid's cells, (h,w,D) float32."""
    device = layer.positional_encoding_gaussian_matrix.device
    rows = (torch.arange(height, device=device) + 0.5) / height
    columns = (torch.arange(width, device=device) + 0.5) / width
    grid = torch.stack(torch.meshgrid(rows, columns, indexing="ij")[::-1], dim=-1)  # xy
    return layer(grid)


def box_corners(boxes_xyxy: Tensor) -> Tensor:
    """The corners of boxes (...,4): (...,4,2) xy in the same frame, row by row.

    >>> box_corners(torch.tensor([1.0, 2.0, 3.0, 5.0])).tolist()
    [[1.0, 2.0], [3.0, 2.0], [1.0, 5.0], [3.0, 5.0]]
    """
    near, far = boxes_xyxy[..., None, :2], boxes_xyxy[..., None, 2:]
    return near + (far - near) * near.new_tensor([[0, 0], [1, 0], [0, 1], [1, 1]])


class PromptEncoder(nn.Module):
    """Every prompt becomes `max_points + 1` sparse tokens, so that answers never depend on the neighbours' prompts."""

    def __init__(self, config: PixelLLMPromptConfig):
        super().__init__()
        if config.max_points < 4:
            raise ValueError(
                f"max_points must be at least 4, the corners of a box, but it is {config.max_points}. "
                "Prompts of fewer points are padded, so 4 does no harm."
            )
        self.max_points = config.max_points
        self.pe_layer = FourierPositions(config.embed_dim, config.position_scale)
        self.point_embeddings = nn.ModuleList(LearnedTokens(1, config.embed_dim) for _ in range(4))
        self.not_a_point_embed = LearnedTokens(1, config.embed_dim)
        self.no_mask_embed = LearnedTokens(1, config.embed_dim)

    @property
    def no_mask(self) -> Tensor:
        """The dense prompt of every prompt here, (1,D): no mask is given."""
        return self.no_mask_embed.weight

    def dense_positions(self, height: int, width: int) -> Tensor:
        """Positions of the centres of a grid's cells, (h,w,D) float32."""
        return grid_positions(self.pe_layer, height, width)

    def embed_points(self, points: Tensor, labels: Tensor, *, image_size_hw: tuple[int, int], pad: bool) -> Tensor:
        """points (…,K,2) xy canvas pixels, labels (…,K): 1 inside, 0 outside, -1 none -> (…,K or K+1,D).

        `pad` appends the reference's padding point: label -1 at (0, 0).
        """
        places = self._to_unit(points, image_size_hw)
        if pad:
            places = torch.cat([places, torch.zeros_like(places[..., :1, :])], dim=-2)
            labels = torch.cat([labels, torch.full_like(labels[..., :1], -1)], dim=-1)
        labels = labels[..., None]
        kinds = torch.where(labels == 1, self._kind(INSIDE), self._kind(OUTSIDE))
        return torch.where(labels == -1, self.not_a_point_embed.weight, self.pe_layer(places) + kinds)

    def embed_boxes(self, boxes: Tensor, *, image_size_hw: tuple[int, int]) -> Tensor:
        """boxes (…,4) xyxy canvas pixels -> tokens of the top-left and bottom-right corner (…,2,D)."""
        corners = self.pe_layer(self._to_unit(boxes.unflatten(-1, (2, 2)), image_size_hw))
        return corners + torch.cat([self._kind(TOP_LEFT), self._kind(BOTTOM_RIGHT)])

    def forward(
        self,
        boxes: Tensor,
        points: Tensor | None = None,
        point_labels: Tensor | None = None,
        *,
        image_size_hw: tuple[int, int],
    ) -> Tensor:
        """boxes (B,N,4) xyxy, points (B,N,K,2) xy, canvas pixels, point_labels (B,N,K) -> (B,N,max_points+1,D).

        A box with a positive coordinate speaks for its prompt: its two corner tokens, filled up with `no_mask_embed`
        as in the reference (official.md#prompt-encoder). Otherwise the points do; without points a zero box is its own
        four corners, which is what the reference makes of padding prompts.
        """
        boxes = boxes.float()  # a grid of points in it would be rounded like the box
        if points is None:
            points, point_labels = box_corners(boxes), None
        if point_labels is None:
            point_labels = torch.ones(points.shape[:-1], dtype=torch.long, device=points.device)
        missing = self.max_points - points.shape[-2]
        if missing < 0:
            raise ValueError(
                f"a prompt may have up to {self.max_points} points, but {points.shape[-2]} came. "
                "Use fewer points or a box."
            )
        points = nn.functional.pad(points, (0, 0, 0, missing))
        point_labels = nn.functional.pad(point_labels, (0, missing), value=-1)
        by_points = self.embed_points(points, point_labels, image_size_hw=image_size_hw, pad=True)
        corners = self.embed_boxes(boxes, image_size_hw=image_size_hw)
        filler = self.no_mask.expand(*corners.shape[:-2], self.max_points - 1, -1)
        by_box = torch.cat([corners, filler.to(corners.dtype)], dim=-2)
        has_box = boxes.amax(-1) > 0
        return torch.where(has_box[..., None, None], by_box, by_points)

    def _kind(self, kind: int) -> Tensor:
        """What tells one kind of point from the others, (1,D)."""
        return self.point_embeddings.get_parameter(f"{kind}.weight")

    def _to_unit(self, points_xy: Tensor, image_size_hw: tuple[int, int]) -> Tensor:
        """Canvas pixels -> 0..1, half a pixel in, as SAM does."""
        height, width = image_size_hw
        return (points_xy.float() + 0.5) / points_xy.new_tensor([width, height], dtype=torch.float32)
