"""Teach SAM's own task before language meets it: a box in, a mask out, through the tower that the masks come from.

The paper begins with SAM's weights, which know this. Towers that name cells only know little of outlines, and later
masks are referred to too rarely to teach them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pixelllm_hf.modeling.mask_losses import mask_loss
from pixelllm_hf.modeling.modeling_pixelllm import PixelLLMForGroundedGeneration
from pixelllm_hf.processing.mask_codec import segmentation_to_mask
from pixelllm_hf.training.auxiliary.batches import ImageBatches
from pixelllm_hf.training.auxiliary.cell_heads import AuxiliaryOutput
from pixelllm_hf.training.auxiliary.heads import AuxiliaryHeads
from pixelllm_hf.training.auxiliary.labels import cell_centres, not_coco, read_instances
from pixelllm_hf.training.auxiliary.masks_of_boxes import masks_of_boxes, mean_overlap, teach_masks
from pixelllm_hf.training.recipe_values import ConfigError, Few, NotNegative, RecipePart

TAUGHT = ("vision_towers.", "mask_head.decoder.", "mask_head.map_projection.")


@dataclass
class MaskTaskConfig(RecipePart):
    """What is asked.

    Args:
        objects_per_image: masks asked for in an image, of objects drawn anew every time.
        mask_cells: labels per side of the canvas; the loss is computed on this grid.
        box_noise: standard deviation that moves each side of a box, in shares of its width or height; that of SAM.
    """

    objects_per_image: Few = 3
    mask_cells: Few = 80
    box_noise: NotNegative = 0.1


class MaskLearner(nn.Module):
    """A model of which the towers and the mask decoder learn, and the heads that keep the towers' other knowledge."""

    def __init__(self, model: PixelLLMForGroundedGeneration, heads: AuxiliaryHeads):
        super().__init__()
        self.model, self.heads = model, heads
        teach_masks(model, TAUGHT)

    def forward(
        self,
        pixel_values: Tensor,
        pixel_mask: Tensor,
        labels: Tensor,
        boxes: Tensor,
        object_boxes: Tensor,
        object_masks: Tensor,
        image_of_row: Tensor,
    ) -> AuxiliaryOutput:
        """pixel_values (B,3,S,S), pixel_mask (B,S,S), labels and boxes as in `PatchHeads`; object_boxes (R,4) xyxy
        canvas pixels, object_masks (R,M,M) of the canvas, image_of_row (R,)."""
        features = self.model.get_image_features(pixel_values, pixel_mask)
        logits, iou_predictions = masks_of_boxes(self.model, features, object_boxes, image_of_row)
        stride = pixel_mask.shape[-1] // object_masks.shape[-1]
        real = pixel_mask[:, stride // 2 :: stride, stride // 2 :: stride]
        parts = mask_loss(logits, iou_predictions, object_masks, pixel_mask=real[image_of_row])
        total = torch.stack(list(parts.values())).sum()
        looks = {"mask": total.detach(), "mask_iou": mean_overlap(logits, object_masks)}
        kept = self.heads(features, lambda: self.model.get_visual_tokens(features, pixel_mask), labels, boxes)
        return AuxiliaryOutput(loss=total + kept.loss, loss_parts=looks | kept.loss_parts)


@dataclass(frozen=True)
class ImageObjects:
    """The objects of a COCO instances file by the row of their image: sizes_hw, and (segmentation, xywh) of each."""

    sizes_hw: list[tuple[int, int]]
    of_row: list[list[tuple[Any, list[float]]]]

    @classmethod
    def read(cls, instances: str) -> ImageObjects:
        coco = read_instances(instances)
        with not_coco(instances):
            row_of = {image["id"]: row for row, image in enumerate(coco["images"])}
            of_row: list[list[tuple[Any, list[float]]]] = [[] for _ in row_of]
            for annotation in coco["annotations"]:
                of_row[row_of[annotation["image_id"]]].append((annotation["segmentation"], annotation["bbox"]))
            return cls([(image["height"], image["width"]) for image in coco["images"]], of_row)


class MaskBatches:
    """Dense batches with objects of their images: their masks, and their boxes moved a little.

    Images without objects have none; a batch has at least one as long as any of its images does.
    """

    def __init__(self, batches: ImageBatches, objects: ImageObjects, task: MaskTaskConfig, *, seed: int):
        if batches.flip:
            raise ConfigError("auxiliary.flip mirrors images but not their masks. Leave it out.")
        self.batches, self.objects, self.task, self.seed = batches, objects, task, seed
        self.canvas = batches.cache.canvas
        if self.canvas % task.mask_cells:
            raise ConfigError(f"mask_cells must divide the canvas of {self.canvas} pixels, but is {task.mask_cells}.")

    def batch_at(self, index: int) -> dict[str, Any]:
        random = np.random.default_rng((self.seed, 2, index))
        boxes, masks, image_of_row = [], [], []
        for image, row in enumerate(self.batches.rows_at(index)):
            found, size_hw = self.objects.of_row[row], self.objects.sizes_hw[row]
            for chosen in random.permutation(len(found))[: self.task.objects_per_image]:
                segmentation, box = found[chosen]
                masks.append(self._mask(segmentation, size_hw))
                boxes.append(self._box(box, size_hw, random))
                image_of_row.append(image)
        side = self.task.mask_cells
        return {
            **self.batches.batch_at(index),
            "object_boxes": torch.tensor(np.array(boxes, np.float32).reshape(-1, 4)),
            "object_masks": torch.from_numpy(np.array(masks, np.uint8).reshape(-1, side, side)),
            "image_of_row": torch.tensor(image_of_row, dtype=torch.long),
        }

    def _mask(self, segmentation: Any, size_hw: tuple[int, int]) -> np.ndarray:
        rows, columns = cell_centres(size_hw, self.task.mask_cells)
        mask = np.zeros((self.task.mask_cells, self.task.mask_cells), bool)
        mask[: len(rows), : len(columns)] = segmentation_to_mask(segmentation, size_hw)[np.ix_(rows, columns)]
        return mask

    def _box(self, xywh: list[float], size_hw: tuple[int, int], random: np.random.Generator) -> np.ndarray:
        x, y, w, h = np.array(xywh) * (self.canvas / max(size_hw))
        moved = np.array([x, y, x + w, y + h]) + random.normal(0, self.task.box_noise, 4) * (w, h, w, h)
        return np.concatenate([np.minimum(moved[:2], moved[2:]), np.maximum(moved[:2], moved[2:])])
