"""What teaches the towers what is where: linear heads that name every cell of their maps, and their losses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.utils import ModelOutput

from pixelllm_hf.modeling.configuration_towers import FUSED
from pixelllm_hf.modeling.vision_towers import VisionFeatures
from pixelllm_hf.training.auxiliary.labels import BACKGROUND, IGNORED, ImageLabels
from pixelllm_hf.training.recipe_values import NotNegative, RecipePart, Share, Within

BOX = "box"
CELL_HEADS_FILE = "cell_heads.safetensors"


@dataclass
class CellTaskConfig(RecipePart):
    """What the linear heads predict.

    Args:
        sub_cells: labels per side of a cell; 2 gives 4 labels a cell.
        background_weight: of background cells in the loss; most cells are background.
        tower_loss_weight: of each tower's own head; without it one tower may leave the seeing to the other.
        attribute_loss_weight: of attributes (colour, size) where the instances carry them; 0 leaves them out.
        box_loss_weight: of every object cell's guess at its object's box, mean absolute error in canvases. Without it
            nothing makes the towers keep where a cell lies, and a prompt extractor, whose values carry no positions,
            finds places only slowly. 0 leaves it out.
        label_smoothing: of the class loss.
    """

    sub_cells: Annotated[int, Within(1, 64)] = 2
    background_weight: NotNegative = 0.3
    tower_loss_weight: NotNegative = 0.5
    attribute_loss_weight: NotNegative = 0.3
    box_loss_weight: NotNegative = 0.0
    label_smoothing: Share = 0.0


@dataclass
class AuxiliaryOutput(ModelOutput):
    loss: Tensor | None = None
    loss_parts: dict[str, Tensor] | None = None


class PatchHeads(nn.Module):
    """Throw-away linear heads: one on the fused map, one on each tower's own."""

    def __init__(self, widths: dict[str, int], classes: int, attributes: dict[str, int], task: CellTaskConfig):
        """widths: channels of each map by its name in `VisionFeatures`; attributes: how many values each has."""
        super().__init__()
        self.task = task
        self.outputs = {"class": classes + 1} | {name: n + 1 for name, n in attributes.items()} | {BOX: 4}
        per_cell = sum(self.outputs.values()) * task.sub_cells**2
        self.heads = nn.ModuleDict(
            {name.replace(".", "/"): nn.Linear(width, per_cell) for name, width in widths.items()}
        )

    @classmethod
    def for_model(cls, vision_config: Any, labels: ImageLabels, task: CellTaskConfig) -> PatchHeads:
        """For the maps of a model's towers and the names in the labels."""
        widths = {FUSED: vision_config.feature_channels}
        widths |= {name: channels for name, (channels, _) in vision_config.map_shapes.items()}
        attributes = {name: len(values) for name, values in labels.attribute_names.items()}
        return cls(widths, len(labels.class_names), attributes, task)

    def forward(self, features: VisionFeatures, labels: Tensor, boxes: Tensor | None = None) -> AuxiliaryOutput:
        """features: maps (B,h,w,C); labels (B,1+A,G,G): class, then attributes, -1 ignored; boxes (B,4,G,G) xyxy in
        canvases, of the object at each cell."""
        parts: dict[str, Tensor] = {}
        total = features["fused"].new_zeros((), dtype=torch.float32)
        for key, head in self.heads.items():
            name = key.replace("/", ".")  # torch has no dots in the names of modules
            logits = self._on_cells(head(features[name]).float(), labels.shape[-1])
            weight = 1.0 if name == "fused" else self.task.tower_loss_weight
            parts[name] = class_loss(logits[0], labels[:, 0], self.task.background_weight, self.task.label_smoothing)
            total = total + weight * parts[name]
            attributes = list(self.outputs)[1:-1] if self.task.attribute_loss_weight else []
            for index, attribute in enumerate(attributes, 1):
                loss = attribute_loss(logits[index], labels[:, index])
                total = total + weight * self.task.attribute_loss_weight * loss
                if name == "fused":
                    parts[attribute] = loss
            foreground = labels[:, 0] > BACKGROUND
            if self.task.box_loss_weight and boxes is not None:
                parts[f"{name}_box"] = box_loss((logits[-1] - boxes).abs().mean(1), foreground)
                total = total + weight * self.task.box_loss_weight * parts[f"{name}_box"]
            with torch.no_grad():
                hits = logits[0].argmax(1) == labels[:, 0]
                parts[f"{name}_foreground_accuracy"] = accuracy(hits, foreground)
                if name == "fused":
                    parts["background_accuracy"] = accuracy(hits, labels[:, 0] == BACKGROUND)
        return AuxiliaryOutput(loss=total, loss_parts=parts)

    def _on_cells(self, logits: Tensor, cells: int) -> list[Tensor]:
        """(B,h,w,s*s*K) -> per output (B,K_i,G,G); a map on another grid than the labels' is resized."""
        s = self.task.sub_cells
        maps = logits.unflatten(-1, (s, s, -1)).permute(0, 5, 1, 3, 2, 4)  # B,K,h,s,w,s
        maps = maps.flatten(4, 5).flatten(2, 3)
        if maps.shape[-1] != cells:
            maps = F.interpolate(maps, size=(cells, cells), mode="bilinear", align_corners=False)
        return list(maps.split(list(self.outputs.values()), dim=1))


def class_loss(logits: Tensor, target: Tensor, background_weight: float, label_smoothing: float = 0.0) -> Tensor:
    """logits (B,K,…), target (B,…) class numbers -> cross entropy in which background counts less."""
    weight = logits.new_ones(logits.shape[1])
    weight[BACKGROUND] = background_weight
    return F.cross_entropy(logits, target.long(), weight, ignore_index=IGNORED, label_smoothing=label_smoothing)


def attribute_loss(logits: Tensor, values: Tensor) -> Tensor:
    """logits (B,K,…), values (B,…) -> mean cross entropy over what has the attribute: background has no colour."""
    target = values.masked_fill(values <= 0, IGNORED).long()
    loss = F.cross_entropy(logits, target, ignore_index=IGNORED, reduction="sum")
    return loss / (target != IGNORED).sum().clamp(min=1)


def box_loss(errors: Tensor, here: Tensor) -> Tensor:
    """The mean of the errors where there is an object; 0 where there is none at all."""
    return (errors * here).sum() / here.sum().clamp(min=1)


def accuracy(hits: Tensor, counted: Tensor) -> Tensor:
    """The share of hits among those counted; 1 where none is."""
    chosen = hits[counted].float()
    return chosen.mean() if chosen.numel() else chosen.new_ones(())
