"""Dense captioning's box decoder: image features in, boxes of all objects out (official.md#detector).

Feature pyramid -> CenterNet proposals -> box heads on resampled features -> detections. The boxes become the prompts of
the language model; nothing here knows about text.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.utils import ModelOutput

from .box_coding import box_areas, match_boxes
from .centernet import CenterNetHead, CenterPredictions, candidate_boxes, select_proposals
from .configuration_heads import PixelLLMProposalHeadConfig
from .detection_losses import proposal_losses, roi_losses
from .feature_pyramid import SimpleFeaturePyramid
from .roi_head import STAGE_WEIGHTS, RoIHead, StagePredictions, final_detections, sample_boxes
from .vision_towers import VisionFeatures


@dataclass
class ProposalHeadOutput(ModelOutput):
    """boxes (B,K,4) xyxy canvas pixels, scores (B,K) best first, num_detections (B,): how many of K are detections.

    The rest is padding (zero box, score 0) and, last, boxes below the score threshold (score -1).
    """

    boxes: Tensor | None = None
    scores: Tensor | None = None
    num_detections: Tensor | None = None


@dataclass
class ProposalHeadLoss(ModelOutput):
    """loss: the detector's total; loss_parts: its parts by name, unweighted.

    proposals (B,S,4): the boxes that the last stage was trained on, objects first; the first ones are captioned.
    """

    loss: Tensor | None = None
    loss_parts: dict[str, Tensor] | None = None
    proposals: Tensor | None = None


class ProposalHead(nn.Module):
    """Finds every object of an image, of whatever class.

    What every proposal head offers: `reads` of the towers' features what `forward`, which detects, and `losses` take,
    and `match_captions`.
    """

    def __init__(self, config: PixelLLMProposalHeadConfig, image_channels: int):
        super().__init__()
        _check(config)
        self.config = config
        self.fpn = SimpleFeaturePyramid(config, image_channels)
        self.proposal_generator = CenterNetHead(config)
        self.roi_heads = RoIHead(config)

    def reads(self, features: VisionFeatures) -> Tensor:
        """The fused map of all towers (B,h,w,C), which the other methods take."""
        assert features.fused is not None
        return features.fused

    def forward(self, image_map: Tensor, image_size_hw: tuple[int, int] | Tensor) -> ProposalHeadOutput:
        """image_map (B,h,w,C) of all towers -> detections.

        Boxes are clipped to image_size_hw, one (h,w) or (B,2): the canvas in the reference, whose padding may hold
        boxes; with the sizes of the images inside it, all boxes end at their image.
        """
        config, size_hw = self.config, image_sizes(image_size_hw, image_map)
        maps = self._pyramid(image_map)
        boxes, scores = self._proposals(
            self.proposal_generator(maps), size_hw, config.pre_nms_topk, config.post_nms_topk
        )
        boxes, scores, number = final_detections(
            self.roi_heads(maps, boxes, size_hw),
            scores,
            size_hw,
            score_threshold=config.detection_score_threshold,
            iou_threshold=config.detection_nms_threshold,
            count=config.max_detections,
        )
        return ProposalHeadOutput(boxes=boxes, scores=scores, num_detections=number)

    def losses(
        self,
        image_map: Tensor,
        image_size_hw: tuple[int, int] | Tensor,
        gt_boxes: Tensor,
        gt_classes: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> ProposalHeadLoss:
        """What detecting gt_boxes costs: image_map (B,h,w,C), gt_boxes (B,M,4) xyxy canvas pixels, zero rows = padding.

        gt_classes (B,M): 0 leaves a box out. The generator draws the boxes that the second stage is trained on.
        """
        config, size_hw = self.config, image_sizes(image_size_hw, image_map)
        gt_boxes = gt_boxes.float()
        if gt_classes is not None:
            gt_boxes = gt_boxes.masked_fill((gt_classes <= 0)[..., None], 0.0)
        gt_boxes = F.pad(gt_boxes, (0, 0, 0, int(gt_boxes.shape[1] == 0)))  # at least one row, if of padding
        is_object = (box_areas(gt_boxes) > 0).long()
        maps = self._pyramid(image_map)
        predictions = self.proposal_generator(maps)
        boxes, _ = self._proposals(predictions, size_hw, config.pre_nms_topk_train, config.post_nms_topk_train)

        boxes = torch.cat([boxes, gt_boxes], dim=1)
        _, found = match_boxes(boxes, gt_boxes, is_object, iou_threshold=config.roi_matching_thresholds[0])
        index, counted = sample_boxes(found > 0, config.roi_samples, config.roi_positive_fraction, generator)
        boxes = boxes.gather(1, index[..., None].expand(-1, -1, 4))
        stages = self.roi_heads(maps, boxes, size_hw)

        parts = proposal_losses(predictions, gt_boxes, config.level_ranges)
        parts |= self._stage_losses(stages, gt_boxes, is_object, counted)
        centers = parts["center_positive"] + parts["center_negative"]
        loss = config.center_loss_weight * centers + config.distance_loss_weight * parts["distance"]
        loss = loss + parts["roi_class"] + parts["roi_box"]
        return ProposalHeadLoss(loss=loss, loss_parts=parts, proposals=stages[-1].boxes)

    def match_captions(self, proposals: Tensor, gt_boxes: Tensor, gt_classes: Tensor) -> tuple[Tensor, Tensor]:
        """Which object each proposal is captioned as: its index (B,S), and its class (B,S), 0 = nothing is learnt.

        proposals (B,S,4), gt_boxes (B,M,4), gt_classes (B,M).
        """
        return match_boxes(proposals, gt_boxes, gt_classes, iou_threshold=self.config.caption_matching_threshold)

    def _stage_losses(
        self, stages: list[StagePredictions], gt_boxes: Tensor, is_object: Tensor, counted: Tensor
    ) -> dict[str, Tensor]:
        """The mean over stages of their class and box losses; counted (B,S): boxes of the first stage that count."""
        losses = []
        for k, (stage, threshold) in enumerate(zip(stages, self.config.roi_matching_thresholds, strict=True)):
            index, found = match_boxes(stage.boxes, gt_boxes, is_object, iou_threshold=threshold)
            matched = gt_boxes.gather(1, index[..., None].expand(-1, -1, 4))
            # Later stages label anew what the one before has moved: no box is left out for balance.
            counts = counted if k == 0 else torch.ones_like(counted)
            losses.append(
                roi_losses(stage.class_logits, stage.offsets, stage.boxes, matched, found, counts, STAGE_WEIGHTS[k])
            )
        of_class, of_box = zip(*losses, strict=True)
        return {"roi_class": torch.stack(of_class).mean(), "roi_box": torch.stack(of_box).mean()}

    def _pyramid(self, image_map: Tensor) -> list[Tensor]:
        # The head may be kept in float32 where the towers are not.
        return self.fpn(image_map.to(self.proposal_generator.agn_hm.weight.dtype))

    def _proposals(
        self, predictions: CenterPredictions, size_hw: Tensor, before: int, after: int
    ) -> tuple[Tensor, Tensor]:
        boxes, scores = candidate_boxes(predictions, before)
        return select_proposals(boxes, scores, size_hw, iou_threshold=self.config.proposal_nms_threshold, count=after)


def _check(config: PixelLLMProposalHeadConfig) -> None:
    strides = list(config.strides)
    if len(strides) != 5 or strides[0] & (strides[0] - 1) or any(b != 2 * a for a, b in pairwise(strides)):
        raise ValueError(
            f"strides must be five powers of 2 in a row, one for each level of the pyramid, got {strides}. "
            "Patches of 16 pixels give 8, 16, 32, 64, 128."
        )
    if len(config.level_ranges) != len(strides):
        raise ValueError(
            f"level_ranges must have a (smallest, largest) pair for each of {len(strides)} levels, got "
            f"{len(config.level_ranges)}."
        )
    if not 1 <= len(config.roi_matching_thresholds) <= len(STAGE_WEIGHTS):
        raise ValueError(
            f"roi_matching_thresholds must have one overlap for each stage of box heads, 1 to {len(STAGE_WEIGHTS)}, "
            f"got {config.roi_matching_thresholds}."
        )


def image_sizes(image_size_hw: tuple[int, int] | Tensor, image_map: Tensor) -> Tensor:
    """One size or one per image -> (B,2) float32."""
    sizes = torch.as_tensor(image_size_hw, dtype=torch.float32, device=image_map.device)
    if sizes.ndim > 2 or sizes.shape[-1:] != (2,) or (sizes.ndim == 2 and len(sizes) != len(image_map)):
        raise ValueError(
            f"image_size_hw must be (h, w) or one (h, w) for each of {len(image_map)} images, but it has shape "
            f"{tuple(sizes.shape)}. Pass the side of the canvas twice or a tensor (images, 2)."
        )
    return sizes.expand(len(image_map), 2)


__all__ = ["ProposalHead", "ProposalHeadLoss", "ProposalHeadOutput", "image_sizes"]
