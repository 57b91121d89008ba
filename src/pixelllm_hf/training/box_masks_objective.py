"""SAM's own task for a model with frozen towers: a box in, a mask out, of the objects of sources of task `segment`.

Objective `masks` teaches the same together with the towers. Here these stay as they are, so that what they see can be
looked up, and the mask decoder alone learns.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from pixelllm_hf.modeling.mask_losses import mask_loss
from pixelllm_hf.modeling.model_output import PixelLLMOutput
from pixelllm_hf.modeling.modeling_pixelllm import PixelLLMForGroundedGeneration
from pixelllm_hf.training.auxiliary.masks_of_boxes import masks_of_boxes, mean_overlap, teach_masks
from pixelllm_hf.training.language_objective import language_objective
from pixelllm_hf.training.objective import Objective
from pixelllm_hf.training.recipe_values import ConfigError

if TYPE_CHECKING:
    from pixelllm_hf.training.recipe import TrainConfig

TAUGHT = ("mask_head.decoder.", "mask_head.map_projection.")
BOX_NOISE = 0.05  # of a box's width or height, standard deviation: predicted boxes are not exact either
PIXELS_PER_LABEL = 4


class BoxMasks(nn.Module):
    """A model whose mask decoder learns from true boxes, moved a little while it trains."""

    def __init__(self, model: PixelLLMForGroundedGeneration):
        super().__init__()
        self.model = model
        teach_masks(model, TAUGHT)

    def forward(self, **batch: Any) -> PixelLLMOutput:
        """A batch of task `segment` as in the model; rows without a box or a mask teach nothing."""
        model = self.model
        features = model.encode_image(batch.get("image_features"), batch.get("pixel_values"), batch["pixel_mask"])
        boxes = true_boxes(batch["point_labels"])
        known = boxes.isfinite().all(-1) & (batch["mask_loss_mask"] > 0)
        images = model.image_of_row(batch["prompt_mask"], len(batch["pixel_mask"]), len(boxes))[known]
        sizes_wh = model.row_sizes_wh(batch["pixel_mask"], batch["prompt_mask"], len(boxes))[known]
        boxes = boxes[known] * sizes_wh.repeat(1, 2)
        if self.training:
            boxes = boxes + BOX_NOISE * torch.randn_like(boxes) * (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
        logits, iou_predictions = masks_of_boxes(model, features, boxes, images)
        every = slice(PIXELS_PER_LABEL // 2, None, PIXELS_PER_LABEL)
        masks, real = batch["mask_labels"][known][:, every, every], batch["pixel_mask"][images][:, every, every]
        parts = mask_loss(logits, iou_predictions, masks, pixel_mask=real)
        loss = torch.stack(list(parts.values())).sum()
        return PixelLLMOutput(loss=loss, loss_parts={"mask": loss.detach(), "mask_iou": mean_overlap(logits, masks)})


def true_boxes(point_labels: Tensor) -> Tensor:
    """point_labels (R,T,2,2) -> the box of each row's last label that has one, (R,4) xyxy in the same frame, or NaN."""
    boxes = point_labels.flatten(2)
    known = boxes.isfinite().all(-1)
    last = (known * torch.arange(1, known.shape[1] + 1, device=known.device)).argmax(1)
    return boxes[torch.arange(len(boxes), device=known.device), last]


def box_masks_objective(recipe: TrainConfig, accelerator: Accelerator) -> Objective:
    """The objects of `data.sources`, all of task `segment`."""
    objective = language_objective(recipe, accelerator)
    assert objective.grounded is not None
    sources: dict[str, Any] = dict(objective.grounded.sources)
    if other := sorted(name for name, source in sources.items() if source[0]["task"] != "segment"):
        raise ConfigError(f"objective box_masks learns from sources of task segment, but {other} are of others.")
    model: Any = objective.module
    return replace(objective, module=BoxMasks(model), shown="mask_iou")
