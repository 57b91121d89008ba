"""Auxiliary labels beside language: towers and prompt tokens go on learning what is where from every image."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from pixelllm_hf.data.mixing import GroundedBatches
from pixelllm_hf.modeling.model_output import PixelLLMOutput
from pixelllm_hf.modeling.modeling_pixelllm import PixelLLMForGroundedGeneration
from pixelllm_hf.modeling.vision_towers import valid_size_hw
from pixelllm_hf.training.auxiliary.batches import LabelledBatches
from pixelllm_hf.training.auxiliary.config import AuxiliaryConfig
from pixelllm_hf.training.auxiliary.heads import AuxiliaryHeads
from pixelllm_hf.training.auxiliary.labels import image_labels
from pixelllm_hf.training.recipe_values import ConfigError


class WithAuxiliary(nn.Module):
    """A model whose images come with labels; its loss has the heads' on top, as parts `cells` and `tokens`."""

    def __init__(self, model: PixelLLMForGroundedGeneration, heads: AuxiliaryHeads):
        super().__init__()
        self.model, self.heads = model, heads

    def forward(
        self,
        pixel_values: Tensor,
        pixel_mask: Tensor,
        auxiliary_labels: Tensor,
        auxiliary_boxes: Tensor,
        **batch: Any,
    ) -> PixelLLMOutput:
        """auxiliary_labels (B,1+A,G,G), auxiliary_boxes (B,4,G,G) as in `PatchHeads`; the rest as in the model."""
        features = self.model.get_image_features(pixel_values, pixel_mask)
        output = self.model(image_features=features, pixel_mask=pixel_mask, **batch)

        def visual_tokens() -> Tensor:
            # Those of whole images are there already where they were the prompts; extracting takes a tenth of a step.
            if not _are_whole_images(pixel_mask, batch):
                return self.model.get_visual_tokens(features, pixel_mask)
            return output.visual_tokens[_first_rows(batch)]

        taught = self.heads(features, visual_tokens, auxiliary_labels, auxiliary_boxes)
        output.loss = output.loss + taught.loss
        output.loss_parts = {**output.loss_parts, **taught.loss_parts}
        return output


def _first_rows(batch: dict[str, Any]) -> Tensor:
    """The row of each image's first prompt, (B,)."""
    boxes, exists = batch["prompt_boxes"], batch.get("prompt_mask")
    number = boxes.new_full((len(boxes),), boxes.shape[1]).long() if exists is None else exists.bool().sum(1)
    return number.cumsum(0) - number


def _are_whole_images(pixel_mask: Tensor, batch: dict[str, Any]) -> bool:
    """Whether every prompt of the batch is its whole image, so that the model extracts one prompt an image."""
    boxes, exists = batch.get("prompt_boxes"), batch.get("prompt_mask")
    if boxes is None or batch.get("prompt_points") is not None:
        return False
    whole = F.pad(valid_size_hw(pixel_mask).flip(-1), (2, 0)).to(boxes.dtype)
    equal = (boxes == whole[:, None]).all(-1)
    return bool(equal.all() if exists is None else (equal | ~exists.bool()).all() and exists.any(1).all())


def with_auxiliary(
    model: PixelLLMForGroundedGeneration, batches: GroundedBatches, config: AuxiliaryConfig, cache_dir: str | None
) -> tuple[WithAuxiliary, LabelledBatches]:
    """The model and the batches of a language recipe that has `auxiliary`."""
    if cache_dir is None:
        raise ConfigError("auxiliary needs data.cache_dir: the folder that receives the labels.")
    towers_learn = any(parameter.requires_grad for parameter in model.vision_towers.parameters())
    if not towers_learn and config.tokens is None:
        raise ConfigError(
            "auxiliary teaches the towers, but they are frozen. Take vision_towers out of model.freeze, or set "
            "auxiliary.tokens."
        )
    canvas = model.config.image_size
    labels = image_labels(config.instances, "", cache_dir, canvas=canvas, cells=config.label_side(model.config))
    heads = AuxiliaryHeads.for_model(
        model,
        labels,
        cells=config.cells if towers_learn else None,
        tokens=config.tokens,
        cell_file=config.cell_heads,
        token_file=config.token_heads,
        cells_weight=config.cells_weight,
        tokens_weight=config.tokens_weight,
    )
    return WithAuxiliary(model, heads), LabelledBatches(batches, labels, canvas)
