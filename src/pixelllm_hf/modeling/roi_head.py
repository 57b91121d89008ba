"""The second stage of the detector: which proposals are objects, and their boxes once more (official.md#detector)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .box_coding import clip_boxes, decode_boxes
from .configuration_heads import PixelLLMProposalHeadConfig
from .detection_ops import first_survivors, greedy_nms, roi_align
from .initialized_layers import InitializedLinear

# Offsets of later stages are smaller, so each stage scales its own.
STAGE_WEIGHTS = ((10.0, 10.0, 5.0, 5.0), (20.0, 20.0, 10.0, 10.0), (30.0, 30.0, 15.0, 15.0))
BACKGROUND, OBJECT = 0, 1


@dataclass
class StagePredictions:
    """One stage: the boxes (B,R,4) it looked at, its class logits (B,R,2) and its offsets (B,R,4) from them."""

    boxes: Tensor
    class_logits: Tensor
    offsets: Tensor


class BoxHead(nn.Module):
    """Fully connected layers over the resampled features of a box."""

    def __init__(self, config: PixelLLMProposalHeadConfig):
        super().__init__()
        widths = [config.roi_size**2 * config.pyramid_channels, *config.roi_hidden_sizes]
        self.depth = len(widths) - 1
        for i, (fan_in, fan_out) in enumerate(pairwise(widths), start=1):
            self.add_module(f"fc{i}", InitializedLinear(fan_in, fan_out, std=fan_in**-0.5))
        # The reference's start: undecided, and boxes as they come.
        self.cls_score = InitializedLinear(widths[-1], 2, std=0.01)
        self.bbox_pred = InitializedLinear(widths[-1], 4, std=0.001)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """features (B,R,s,s,C) -> class logits (B,R,2) background and object, offsets (B,R,4), both float32."""
        x = features.flatten(2)
        for i in range(1, self.depth + 1):
            x = F.relu(self.get_submodule(f"fc{i}")(x))
        return self.cls_score(x).float(), self.bbox_pred(x).float()


class RoIHead(nn.Module):
    """One box head per stage; a stage looks at the boxes that the one before has made."""

    def __init__(self, config: PixelLLMProposalHeadConfig):
        super().__init__()
        self.strides = tuple(config.strides)
        self.output_size = config.roi_size
        self.box_head = nn.ModuleList(BoxHead(config) for _ in config.roi_matching_thresholds)

    def forward(self, maps: Sequence[Tensor], boxes: Tensor, image_size_hw: Tensor) -> list[StagePredictions]:
        """maps of the pyramid, boxes (B,R,4) canvas pixels, image_size_hw (B,2) -> what each stage says.

        Boxes carry no gradient from stage to stage; training would diverge.
        """
        stages = []
        for head, weights in zip(self.box_head, STAGE_WEIGHTS, strict=False):
            boxes = boxes.detach()
            class_logits, offsets = head(roi_align(maps, boxes, self.strides, self.output_size))
            stages.append(StagePredictions(boxes, class_logits, offsets))
            boxes = clip_boxes(decode_boxes(offsets.detach(), boxes, weights), image_size_hw)
        return stages


@torch.no_grad()
def final_detections(
    stages: Sequence[StagePredictions],
    proposal_scores: Tensor,
    image_size_hw: Tensor,
    *,
    score_threshold: float,
    iou_threshold: float,
    count: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes (B,count,4) clipped to the image, scores (B,count) best first, and how many are detections (B,).

    A score is the geometric mean of the proposal's and the box heads'. As in the reference, boxes at or below the
    threshold are not removed but get the score -1: they end up last, behind empty slots (zero box, score 0).
    """
    is_object = torch.stack([stage.class_logits.softmax(-1)[..., OBJECT] for stage in stages]).mean(0)
    scores = (is_object * proposal_scores).sqrt()
    scores = scores.masked_fill(scores <= score_threshold, -1.0)
    last, weights = stages[-1], STAGE_WEIGHTS[len(stages) - 1]
    boxes = clip_boxes(decode_boxes(last.offsets, last.boxes, weights), image_size_hw)
    scores, boxes = _best_first(scores, boxes)
    index, filled = first_survivors(greedy_nms(boxes, iou_threshold) & (boxes > 0).any(-1), count)
    boxes = boxes.gather(1, index[..., None].expand(-1, -1, 4)).masked_fill(~filled[..., None], 0.0)
    scores, boxes = _best_first(scores.gather(1, index).masked_fill(~filled, 0.0), boxes)
    return boxes, scores, (scores > 0).sum(1)


def _best_first(scores: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
    scores, order = scores.sort(dim=1, descending=True, stable=True)
    return scores, boxes.gather(1, order[..., None].expand(-1, -1, 4))


@torch.no_grad()
def sample_boxes(
    is_object: Tensor, count: int, positive_fraction: float, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """A random choice of boxes to train on: is_object (B,R) bool -> index (B,S), counted (B,S) bool.

    At most positive_fraction of count are objects; background fills the rest. Objects come first, each kind in its
    order. Where background is short, S is made up by surplus objects that are not counted in any loss.
    """
    count = min(count, is_object.shape[1])
    chance = torch.rand(is_object.shape, generator=generator, device=is_object.device)
    rank = (chance + is_object).argsort(1, descending=True).argsort(1)  # objects first, in random order
    chosen_object = is_object & (rank < int(count * positive_fraction))
    # 2 a chosen object, 1 background, 0 a surplus object; the kinds do not mix as chances stay below 1.
    kind = torch.where(is_object, 2 * chosen_object, 1)
    taken = (kind + chance).argsort(1, descending=True).argsort(1) < count
    kind = kind.masked_fill(~taken, -1)
    kind, index = kind.sort(dim=1, descending=True, stable=True)
    return index[:, :count], kind[:, :count] > 0


__all__ = [
    "BACKGROUND",
    "OBJECT",
    "STAGE_WEIGHTS",
    "BoxHead",
    "RoIHead",
    "StagePredictions",
    "final_detections",
    "sample_boxes",
]
