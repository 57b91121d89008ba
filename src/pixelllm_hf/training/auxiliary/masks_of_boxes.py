"""Boxes in, masks out, without language: what the mask decoder is taught before anybody refers to anything."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pixelllm_hf.modeling.mask_losses import mask_iou
from pixelllm_hf.modeling.modeling_pixelllm import PixelLLMForGroundedGeneration
from pixelllm_hf.modeling.vision_towers import VisionFeatures
from pixelllm_hf.training.recipe_values import ConfigError


def teach_masks(model: PixelLLMForGroundedGeneration, taught: Sequence[str]) -> None:
    """Train the parameters whose names begin so, and no others; what the adapter heard of language is forgotten: its
    gate is closed, as in a new model."""
    if model.mask_head is None:
        raise ConfigError("Masks cannot be taught to a model without a mask head; set mask_head_config.")
    nn.init.zeros_(model.mask_head.adapter.alpha)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith(tuple(taught)))


def masks_of_boxes(
    model: PixelLLMForGroundedGeneration, features: VisionFeatures, boxes: Tensor, image_of_row: Tensor
) -> tuple[Tensor, Tensor]:
    """What the decoder alone makes of boxes (R,4) xyxy canvas pixels on the images image_of_row (R,): the logits of the
    masks (R,1,h,w) and the overlap that they promise (R,1)."""
    encoder, side = model.prompt_encoder, model.config.image_size
    assert model.mask_head is not None
    image_map = model.mask_head.project_map(features[model.config.vision_config.mask_map])
    found = model.mask_head.decoder(
        image_map,
        encoder.dense_positions(*image_map.shape[1:3]),
        encoder.no_mask,
        encoder.embed_boxes(boxes, image_size_hw=(side, side)),
        image_of_row,
    )
    return found.logits, found.iou_predictions


@torch.no_grad()
def mean_overlap(logits: Tensor, masks: Tensor) -> Tensor:
    """The mean IoU of logits (R,1,h,w) with masks (R,M,M), at the masks' size; 0 without rows."""
    if not len(masks):
        return logits.new_zeros(())
    logits = nn.functional.interpolate(logits.float(), size=masks.shape[-2:], mode="bilinear", align_corners=False)
    return mask_iou(logits[:, 0] > 0, masks > 0).mean()
