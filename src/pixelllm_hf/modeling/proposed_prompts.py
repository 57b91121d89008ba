"""Proposals of the detector as the prompts of a training pass (official.md#losses)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .box_coding import box_areas
from .detections import AnyProposalHead
from .losses import IGNORE_INDEX
from .vision_towers import VisionFeatures


@dataclass
class ProposedPrompts:
    """loss: the detector's. boxes (B,N,4) canvas pixels, prompt_mask (B,N): those that match an object; of these R
    prompts, image-major, labels (R,T) and point_labels (R,T,P,2) are the object's.
    """

    loss: Tensor
    boxes: Tensor
    prompt_mask: Tensor
    labels: Tensor
    point_labels: Tensor | None

    def of_each_prompt(self, of_image: Tensor | None) -> Tensor | None:
        """What is given once per image, (B,…), for every prompt: (R,…)."""
        return None if of_image is None else of_image[self.prompt_mask.nonzero()[:, 0]]


def propose_prompts(
    head: AnyProposalHead,
    features: VisionFeatures,
    object_boxes: Tensor,
    object_labels: Tensor | None,
    point_labels: Tensor | None,
    *,
    image_size: int,
) -> ProposedPrompts:
    """Detect the objects and give each proposal that found one its caption.

    object_boxes (B,M,4) xyxy canvas pixels, zero rows = padding, object_labels (B,M,T), point_labels
    (B,M,T,P,2) or None. Proposals that match nothing are left out, as the reference's losses do; where there is none at
    all one stays without labels, so that every weight takes part in every step.
    """
    if object_labels is None or object_labels.shape[:2] != object_boxes.shape[:2]:
        raise ValueError(
            f"object_boxes {tuple(object_boxes.shape)} need object_labels with a caption for each of them, but "
            f"{'there are none' if object_labels is None else f'they are {tuple(object_labels.shape)}'}. "
            "Pass labels of shape (images, objects, tokens), -100 for the padding."
        )
    object_boxes = object_boxes.float()
    if object_boxes.shape[1] == 0:
        object_boxes = F.pad(object_boxes, (0, 0, 0, 1))
        object_labels = F.pad(object_labels, (0, 0, 0, 1), value=IGNORE_INDEX)
        point_labels = None if point_labels is None else F.pad(point_labels, (0, 0, 0, 0, 0, 0, 0, 1))
    is_object = (box_areas(object_boxes) > 0).long()
    detected = head.losses(head.reads(features), (image_size, image_size), object_boxes, is_object)
    assert detected.proposals is not None and detected.loss is not None
    boxes = detected.proposals[:, : head.config.num_caption_proposals]  # objects come first
    index, classes = head.match_captions(boxes, object_boxes, is_object)
    found = classes > 0
    prompt_mask = found.clone()
    if not found.any():
        prompt_mask[0, 0] = True
    images = torch.arange(len(index), device=index.device)[:, None]
    labels = object_labels[images, index].masked_fill(~found[..., None], IGNORE_INDEX)
    return ProposedPrompts(
        loss=detected.loss,
        boxes=boxes,
        prompt_mask=prompt_mask,
        labels=labels[prompt_mask],
        point_labels=None if point_labels is None else point_labels[images, index][prompt_mask],
    )


__all__ = ["ProposedPrompts", "propose_prompts"]
