"""Boxes that a tower's own detector has found, as proposals: dense captioning without a detector to train."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .box_coding import box_areas, clip_boxes, match_boxes
from .configuration_heads import PixelLLMTowerProposalConfig
from .detection_ops import first_survivors, greedy_nms
from .proposal_head import ProposalHeadLoss, ProposalHeadOutput, image_sizes
from .vision_towers import VisionFeatures


class TowerProposalHead(nn.Module):
    """Takes the boxes of a tower that detects, whatever it calls them; a proposal head without weights.

    The maps that its config names hold for each of their cells a box xyxy in shares of the canvas, whether there is an
    object, and the probability of each class: (B,h,w,5+K). A score is that of an object times that of its surest class.
    """

    def __init__(self, config: PixelLLMTowerProposalConfig, image_size: int):
        """image_size: side of the canvas in pixels."""
        super().__init__()
        self.config, self.image_size = config, image_size

    def reads(self, features: VisionFeatures) -> Tensor:
        """The cells of all detection maps, (B,M,5+K), which the other methods take."""
        return torch.cat([features[name].flatten(1, 2) for name in self.config.maps], dim=1).float()

    def forward(self, found: Tensor, image_size_hw: tuple[int, int] | Tensor) -> ProposalHeadOutput:
        """found (B,M,5+K) -> the surest boxes of every image, clipped to image_size_hw, one (h,w) or (B,2)."""
        config = self.config
        scores = found[..., 4] * found[..., 5:].amax(-1)
        scores, surest = scores.sort(dim=1, descending=True, stable=True)
        scores, surest = scores[:, : config.pre_nms_topk], surest[:, : config.pre_nms_topk]
        boxes = found[..., :4].gather(1, surest[..., None].expand(-1, -1, 4)) * self.image_size
        boxes = clip_boxes(boxes, image_sizes(image_size_hw, found))
        counts = (scores > config.detection_score_threshold) & (box_areas(boxes) > 0)
        boxes = boxes.masked_fill(~counts[..., None], 0.0)  # without an area it suppresses none
        keep = greedy_nms(boxes, config.detection_nms_threshold) & counts
        index, filled = first_survivors(keep, min(config.max_detections, keep.shape[1]))
        boxes = boxes.gather(1, index[..., None].expand(-1, -1, 4)).masked_fill(~filled[..., None], 0.0)
        scores = scores.gather(1, index).masked_fill(~filled, 0.0)
        return ProposalHeadOutput(boxes=boxes, scores=scores, num_detections=filled.sum(1))

    def losses(
        self,
        found: Tensor,
        image_size_hw: tuple[int, int] | Tensor,
        gt_boxes: Tensor,
        gt_classes: Tensor | None = None,
    ) -> ProposalHeadLoss:
        """Nothing is learnt here, the loss is 0. The proposals (B,S,4) are true boxes and found ones, those of objects
        first, for captions to be learnt. Arguments as in `ProposalHead.losses`.
        """
        gt_boxes = gt_boxes.float()
        if gt_classes is not None:
            gt_boxes = gt_boxes.masked_fill((gt_classes <= 0)[..., None], 0.0)
        boxes = torch.cat([gt_boxes, self(found, image_size_hw).boxes], dim=1)
        _, classes = self.match_captions(boxes, gt_boxes, (box_areas(gt_boxes) > 0).long())
        order = (classes > 0).to(torch.uint8).sort(dim=1, descending=True, stable=True).indices
        boxes = boxes.gather(1, order[..., None].expand(-1, -1, 4))
        return ProposalHeadLoss(loss=boxes.new_zeros(()), loss_parts={}, proposals=boxes)

    def match_captions(self, proposals: Tensor, gt_boxes: Tensor, gt_classes: Tensor) -> tuple[Tensor, Tensor]:
        """As `ProposalHead.match_captions`."""
        return match_boxes(proposals, gt_boxes, gt_classes, iou_threshold=self.config.caption_matching_threshold)


__all__ = ["TowerProposalHead"]
