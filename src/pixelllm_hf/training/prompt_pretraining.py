"""Teach the prompt tokens what is where before language reads them: everything else stays as it is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from pixelllm_hf.modeling.modeling_pixelllm import PixelLLMForGroundedGeneration
from pixelllm_hf.training.config import OptimizerConfig, RunConfig
from pixelllm_hf.training.dense_heads import DenseLabelOutput
from pixelllm_hf.training.recipe_values import Few, RecipePart
from pixelllm_hf.training.token_heads import TokenHeads, TokenTaskConfig
from pixelllm_hf.training.vision_pretraining import DenseDataConfig

TAUGHT = ("prompt_feature_extractor.", "visual_projection.")


@dataclass
class PromptPretrainConfig(RecipePart):
    """The whole recipe of `scripts/pretrain_prompt.py`.

    Args:
        model: checkpoint folder; its towers see already, its prompt feature extractor is taught.
        label_cells: cells per side of the labels that the objects are taken from.
        export_dtype: of the result.
    """

    data: DenseDataConfig
    model: str
    label_cells: Few = 20
    task: TokenTaskConfig = field(default_factory=TokenTaskConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    run: RunConfig = field(default_factory=RunConfig)
    export_dtype: Literal["float32", "bfloat16", "float16"] = "float32"


class PromptLabeller(nn.Module):
    """A model of which only the way from the maps to the prompt tokens learns, and the heads that teach it."""

    def __init__(self, model: PixelLLMForGroundedGeneration, token_heads: TokenHeads):
        super().__init__()
        self.model, self.token_heads = model, token_heads
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name.startswith(TAUGHT))

    def forward(self, pixel_values: Tensor, pixel_mask: Tensor, labels: Tensor, boxes: Tensor) -> DenseLabelOutput:
        """pixel_values (B,3,S,S), pixel_mask (B,S,S); the rest as in `TokenHeads`."""
        with torch.no_grad():
            features = self.model.get_image_features(pixel_values, pixel_mask)
        return self.token_heads(self.model.get_visual_tokens(features, pixel_mask), labels, boxes)
