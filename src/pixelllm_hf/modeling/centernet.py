"""Class-agnostic CenterNet: every cell of a pyramid may be the centre of an object (official.md#detector)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .box_coding import clip_boxes
from .configuration_heads import PixelLLMProposalHeadConfig
from .detection_ops import first_survivors, greedy_nms
from .initialized_layers import InitializedConv2d


@dataclass
class CenterPredictions:
    """What CenterNet says of every cell, levels one after the other: m cells in all.

    logits (B,m): is an object's centre here; distances (B,m,4): left, top, right, bottom to its border, in strides.
    centers (m,2) xy and strides (m,) of the cells, in nominal pixels; level_shapes (h,w) of every level.
    """

    logits: Tensor
    distances: Tensor
    centers: Tensor
    strides: Tensor
    level_shapes: list[tuple[int, int]]


class CenterNetHead(nn.Module):
    """One tower of convolutions for all levels; a heatmap and four distances are read from it."""

    def __init__(self, config: PixelLLMProposalHeadConfig):
        super().__init__()
        self.strides = tuple(config.strides)
        layers: list[nn.Module] = []
        fan_in, width = config.pyramid_channels, config.tower_channels
        for _ in range(config.num_tower_layers):
            layers += [
                InitializedConv2d(fan_in, width, std=0.01),
                nn.GroupNorm(config.tower_groups, width, eps=1e-6),
                nn.ReLU(),
            ]
            fan_in = width
        self.bbox_tower = nn.Sequential(*layers)
        # The reference's start: everywhere a rare object of 16 x 16 strides.
        self.bbox_pred = InitializedConv2d(fan_in, 4, std=0.01, bias=8.0)
        self.agn_hm = InitializedConv2d(fan_in, 1, std=0.01, bias=-4.6)  # sigmoid(-4.6) = 0.01
        self.scales = nn.ParameterList(nn.Parameter(torch.ones(1)) for _ in self.strides)

    def forward(self, maps: Sequence[Tensor]) -> CenterPredictions:
        """maps (B,h_l,w_l,C), the finest first; predictions are float32 whatever the maps are."""
        logits, distances = [], []
        for image_map, scale in zip(maps, self.scales, strict=True):
            x = self.bbox_tower(image_map.permute(0, 3, 1, 2))
            logits.append(self.agn_hm(x).flatten(1))
            distances.append(F.relu(self.bbox_pred(x) * scale).permute(0, 2, 3, 1).flatten(1, 2))
        shapes = [(image_map.shape[1], image_map.shape[2]) for image_map in maps]
        centers, strides = cell_centers(shapes, self.strides, maps[0].device)
        return CenterPredictions(
            torch.cat(logits, dim=1).float(), torch.cat(distances, dim=1).float(), centers, strides, shapes
        )


def cell_centers(
    shapes: Sequence[tuple[int, int]], strides: Sequence[int], device: torch.device | None = None
) -> tuple[Tensor, Tensor]:
    """Centres (m,2) xy and strides (m,) of the cells of all levels, rows first.

    Strides are nominal: at 384 pixels a grid of 27 cells really has 14.2 pixels a cell, and the reference calls it 16.
    """
    centers, of_cell = [], []
    for (height, width), stride in zip(shapes, strides, strict=True):
        rows, columns = torch.meshgrid(
            torch.arange(height, device=device), torch.arange(width, device=device), indexing="ij"
        )
        level = torch.stack([columns, rows], dim=-1).flatten(0, 1).float() * stride + stride // 2
        centers.append(level)
        of_cell.append(torch.full_like(level[:, 0], stride))
    return torch.cat(centers), torch.cat(of_cell)


@torch.no_grad()
def candidate_boxes(predictions: CenterPredictions, count: int) -> tuple[Tensor, Tensor]:
    """The best cells as boxes: (B,k,4) xyxy, not clipped, and scores (B,k), best first; of equal ones the first cell.

    The reference never takes the worst cell: k = min(count, m - 1).
    """
    scores, index = predictions.logits.sigmoid().sort(dim=1, descending=True, stable=True)
    count = min(count, scores.shape[1] - 1)
    scores, index = scores[:, :count], index[:, :count]
    centers = predictions.centers[index]
    distances = predictions.distances * predictions.strides[:, None]
    distances = distances.gather(1, index[..., None].expand(-1, -1, 4))
    return torch.cat([centers - distances[..., :2], centers + distances[..., 2:]], dim=-1), scores


@torch.no_grad()
def select_proposals(
    boxes: Tensor, scores: Tensor, image_size_hw: Tensor, *, iou_threshold: float, count: int
) -> tuple[Tensor, Tensor]:
    """Candidates, best first, -> the proposals (B,n,4), clipped to the image, and their scores (B,n).

    Slots that nothing is left for repeat the worst candidate with score 0.
    """
    count = min(count, boxes.shape[1])
    # A box that lies above and left of the canvas counts as empty in the reference: it suppresses, but is not kept.
    keep = greedy_nms(boxes, iou_threshold) & (boxes > 0).any(-1)
    index, filled = first_survivors(keep, count)
    boxes = boxes.gather(1, index[..., None].expand(-1, -1, 4))
    return clip_boxes(boxes, image_size_hw), scores.gather(1, index).masked_fill(~filled, 0.0)


__all__ = ["CenterNetHead", "CenterPredictions", "candidate_boxes", "cell_centers", "select_proposals"]
