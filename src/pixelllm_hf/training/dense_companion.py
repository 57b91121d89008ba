"""Dense labels beside language: towers and prompt tokens go on learning what is where from every picture."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pixelllm_hf.data.mixing import GroundedBatches
from pixelllm_hf.modeling.model_output import PixelLLMOutput
from pixelllm_hf.modeling.modeling_pixelllm import PixelLLMForGroundedGeneration
from pixelllm_hf.modeling.vision_towers import valid_size_hw
from pixelllm_hf.training.config import ConfigError
from pixelllm_hf.training.dense_heads import DenseTaskConfig
from pixelllm_hf.training.dense_labels import DenseLabels, dense_labels
from pixelllm_hf.training.label_heads import LabelHeads
from pixelllm_hf.training.recipe_values import NotNegative, RecipePart
from pixelllm_hf.training.sources import check_pictures_stay
from pixelllm_hf.training.token_heads import TokenTaskConfig


@dataclass
class DenseCompanionConfig(RecipePart):
    """What towers, unless they are frozen, and prompt tokens learn beside language.

    Args:
        instances: COCO instances file of the pictures that the sources show.
        heads: `dense_heads.safetensors` of `scripts/pretrain_vision.py` to start from. Random heads would first teach
            the towers nonsense.
        weight: of the towers' loss in the total.
        tokens: what the prompt tokens learn; None leaves it out.
        token_heads: `token_heads.safetensors` of `scripts/pretrain_prompt.py`, likewise.
        token_weight: of the prompt tokens' loss in the total.
    """

    instances: str
    heads: str | None = None
    weight: NotNegative = 1.0
    task: DenseTaskConfig = field(default_factory=DenseTaskConfig)
    tokens: TokenTaskConfig | None = None
    token_heads: str | None = None
    token_weight: NotNegative = 1.0


class WithDenseLabels(nn.Module):
    """A model whose pictures come with dense labels; its loss has the heads' on top, as parts `dense` and `tokens`."""

    def __init__(self, model: PixelLLMForGroundedGeneration, heads: LabelHeads):
        super().__init__()
        self.model, self.heads = model, heads

    def forward(
        self,
        pixel_values: Tensor,
        pixel_mask: Tensor,
        dense_labels: Tensor,
        dense_boxes: Tensor,
        **batch: Any,
    ) -> PixelLLMOutput:
        """dense_labels (B,1+A,G,G), dense_boxes (B,4,G,G) as in `DenseHeads`; the rest as in the model."""
        features = self.model.get_image_features(pixel_values, pixel_mask)
        seen: list[Tensor] = []
        with self._listening(seen):
            output = self.model(image_features=features, pixel_mask=pixel_mask, **batch)

        def visual_tokens() -> Tensor:
            # Those of whole images are there already where they were the prompts; extracting takes a tenth of a step.
            shared = seen and _are_whole_images(pixel_mask, batch)
            return seen[0] if shared else self.model.get_visual_tokens(features, pixel_mask)

        taught = self.heads(features, visual_tokens, dense_labels, dense_boxes)
        output.loss = output.loss + taught.loss
        output.loss_parts = {**output.loss_parts, **taught.loss_parts}
        return output

    @contextmanager
    def _listening(self, seen: list[Tensor]) -> Iterator[None]:
        """Put what the model makes of its prompts, (distinct prompts,V,C), into `seen`."""
        handle = self.model.visual_projection.register_forward_hook(lambda *call: seen.append(call[-1]))
        try:
            yield
        finally:
            handle.remove()


def _are_whole_images(pixel_mask: Tensor, batch: dict[str, Any]) -> bool:
    """Whether every prompt of the batch is its whole image, so that the model extracts one prompt an image."""
    boxes, exists = batch.get("prompt_boxes"), batch.get("prompt_mask")
    if boxes is None or batch.get("prompt_points") is not None:
        return False
    whole = F.pad(valid_size_hw(pixel_mask).flip(-1), (2, 0)).to(boxes.dtype)
    equal = (boxes == whole[:, None]).all(-1)
    return bool(equal.all() if exists is None else (equal | ~exists.bool()).all() and exists.any(1).all())


class DenseLabelBatches:
    """Batches of grounded rows with the dense labels of their pictures.

    Needs sources whose pictures are the same every time, without random scale or flip, and known to the labels.
    """

    def __init__(self, batches: GroundedBatches, labels: DenseLabels, canvas: int):
        self.batches, self.boxes, self.canvas = batches, labels.boxes, canvas
        self.labels = labels.stacked()
        row_of = {file.name: row for row, file in enumerate(labels.image_files)}
        sources: dict[str, Any] = batches.sources
        check_pictures_stay(sources, "dense")
        self.rows: dict[str, np.ndarray] = {}
        for name, source in sources.items():
            rows = [row_of.get(file) for file in source.file_names]
            if missing := sum(row is None for row in rows):
                raise ConfigError(
                    f"{missing} of {len(rows)} pictures of source {name!r} are not in dense.instances. Take the "
                    "instances file of the same pictures."
                )
            self.rows[name] = np.array(rows)

    def batch_at(self, index: int) -> dict[str, Any]:
        batch, plan = self.batches.batch_at(index), self.batches.plan.at(index)
        rows = self.rows[plan.source][list(plan.indices)]
        boxes = self.boxes[rows].astype(np.float32) / self.canvas
        return {
            **batch,
            "dense_labels": torch.from_numpy(self.labels[rows]),
            "dense_boxes": torch.from_numpy(boxes),
        }


def with_dense_labels(
    model: PixelLLMForGroundedGeneration, batches: GroundedBatches, config: DenseCompanionConfig, cache_dir: str | None
) -> tuple[WithDenseLabels, DenseLabelBatches]:
    """The model and the batches of a recipe that has `dense`."""
    if cache_dir is None:
        raise ConfigError("dense needs data.cache_dir: the folder that receives the labels.")
    vision: Any = model.config.vision_config
    towers_learn = any(parameter.requires_grad for parameter in model.vision_towers.parameters())
    if not towers_learn and config.tokens is None:
        raise ConfigError(
            "dense teaches the towers, but they are frozen. Take vision_towers out of model.freeze, or set "
            "dense.tokens."
        )
    canvas, cells = model.config.image_size, vision.grid_size * config.task.sub_cells
    labels = dense_labels(config.instances, "", cache_dir, canvas=canvas, cells=cells)
    heads = LabelHeads.for_model(
        model,
        labels,
        dense=config.task if towers_learn else None,
        tokens=config.tokens,
        dense_file=config.heads,
        token_file=config.token_heads,
        dense_weight=config.weight,
        token_weight=config.token_weight,
    )
    return WithDenseLabels(model, heads), DenseLabelBatches(batches, labels, canvas)
