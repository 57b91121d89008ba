"""What is in a prompt's box: the mean of the fused map, and what a detector says. A short way from there to its name.

Not in the paper.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .box_coding import pairwise_iou
from .linear import Linear
from .prompt_encoder import INSIDE


class PromptPooling(nn.Module):
    """What every visual token of a prompt is given besides, as wide as a token: the mean of the map over the prompt.

    With classes also how sure a detector is of each of them in its box.
    """

    def __init__(self, image_channels: int, width: int, classes: int = 0):
        super().__init__()
        self.projection = Linear(image_channels, width)
        self.classes = Linear(classes, width, bias=False) if classes else None
        self.norm = nn.LayerNorm(width, eps=1e-5)

    def forward(
        self,
        image_map: Tensor,
        boxes: Tensor,
        points: Tensor | None,
        point_labels: Tensor | None,
        prompt_mask: Tensor,
        *,
        image_size: int,
        detections: Tensor | None = None,
    ) -> Tensor:
        """image_map (B,h,w,C) and prompts as in `get_visual_tokens` -> (R,1,width) of the R valid prompts.

        detections (B,h,w,5+K), which are needed with classes: box xyxy in shares of the canvas, whether there is an
        object, and the probability of each class.
        """
        weights = prompt_weights(boxes, points, point_labels, image_map.shape[1:3], image_size=image_size)
        pooled = weights.flatten(2).to(image_map.dtype) @ image_map.flatten(1, 2)
        agreed = None
        if self.classes is not None:
            assert detections is not None
            agreed = class_agreement(boxes / image_size, detections.flatten(1, 2), prompt_mask)
        return self.of_rows(pooled[prompt_mask], agreed)

    def of_rows(self, pooled: Tensor, agreed: Tensor | None = None) -> Tensor:
        """The same of what R rows have pooled (R,C) and, with classes, how they agree with detections (R,K)."""
        tokens = self.projection(pooled)
        if self.classes is not None:
            assert agreed is not None
            tokens = tokens + self.classes(agreed.to(tokens.dtype))
        return self.norm(tokens)[:, None]


@torch.no_grad()
def class_agreement(boxes: Tensor, detections: Tensor, prompt_mask: Tensor) -> Tensor:
    """For each of the R valid prompts and each class: the largest product of how well a detection's box coincides with
    the prompt's (IoU) and the root of its score. (R,K) float32; a prompt without an area coincides with none.

    boxes (B,N,4) and those of the detections (B,M,5+K) xyxy in shares of the canvas.
    """
    overlaps, scores = overlaps_and_scores(boxes, detections)
    images = prompt_mask.nonzero()[:, 0]
    # A row at a time: all rows' products at once would be the largest tensor of the model.
    rows = [agreement_of(overlap, scores[image]) for overlap, image in zip(overlaps[prompt_mask], images, strict=True)]
    return torch.stack(rows)


def overlaps_and_scores(boxes: Tensor, detections: Tensor) -> tuple[Tensor, Tensor]:
    """boxes (B,N,4), detections (B,M,5+K) -> how they coincide (B,N,M), and the detections' scores (B,M,K)."""
    found = detections.float()
    return pairwise_iou(boxes.float(), found[..., :4]), (found[..., 4:5] * found[..., 5:]).clamp(min=0).sqrt()


def agreement_of(overlaps: Tensor, scores: Tensor) -> Tensor:
    """overlaps (…,M) of a prompt, scores (…,M,K) of its image's detections -> the largest products (…,K)."""
    return (overlaps[..., None] * scores).amax(-2)


def prompt_weights(
    boxes: Tensor,
    points: Tensor | None,
    point_labels: Tensor | None,
    grid_hw: tuple[int, int] | torch.Size,
    *,
    image_size: int,
) -> Tensor:
    """How much each cell counts in the mean of each prompt: (B,N,h,w) float32 that sum to 1.

    boxes (B,N,4) xyxy, points (B,N,K,2) xy, canvas pixels, point_labels (B,N,K). As for the prompt encoder a box with
    a positive coordinate speaks for its prompt; otherwise its points inside do, and where it has none all of them.
    """
    weights = cell_coverage(boxes.float() / image_size, grid_hw)
    if points is None:
        return weights
    places = points.float() / image_size
    of_points = cell_coverage(torch.cat([places, places], dim=-1), grid_hw)  # B,N,K,h,w
    inside = torch.ones_like(places[..., 0]) if point_labels is None else (point_labels == INSIDE).float()
    inside = torch.where(inside.any(-1, keepdim=True), inside, 1.0)
    of_points = (of_points * inside[..., None, None]).sum(-3) / inside.sum(-1)[..., None, None]
    return torch.where((boxes.amax(-1) > 0)[..., None, None], weights, of_points)


def cell_coverage(boxes: Tensor, grid_hw: tuple[int, int] | torch.Size) -> Tensor:
    """The share of a box that lies in each cell of a grid: boxes (…,4) xyxy, 0..1 of the canvas -> (…,h,w), sum 1.

    A box smaller than a cell, or a point, stands for the cell-sized box around its middle; what leaves the canvas does
    not count, and a box that lies beyond it stands for the nearest place on it.

    >>> cell_coverage(torch.tensor([0.0, 0.0, 0.75, 0.5]), (2, 2)).tolist()
    [[0.6666666865348816, 0.3333333432674408], [0.0, 0.0]]
    """
    height, width = grid_hw
    columns = _shares(boxes[..., 0], boxes[..., 2], width)
    rows = _shares(boxes[..., 1], boxes[..., 3], height)
    return rows[..., :, None] * columns[..., None, :]


def _shares(start: Tensor, end: Tensor, cells: int) -> Tensor:
    """How much of each stretch start..end (…) lies in each of the cells of 0..1: (…,cells), sum 1."""
    start, end = start.clamp(0, 1), end.clamp(0, 1)
    middle, half = (start + end) / 2, ((end - start) / 2).clamp(min=0.5 / cells)
    near = torch.arange(cells, device=start.device) / cells
    first, last = (middle - half)[..., None], (middle + half)[..., None]
    covered = (last.clamp(max=1).minimum(near + 1 / cells) - first.clamp(min=0).maximum(near)).clamp(min=0)
    return covered / covered.sum(-1, keepdim=True)


__all__ = [
    "PromptPooling",
    "agreement_of",
    "cell_coverage",
    "class_agreement",
    "overlaps_and_scores",
    "prompt_weights",
]
