"""What teaches the prompt tokens what is where: token i tells of the object whose centre is in cell i of a grid.

The language model sees of an image what the prompt tokens carry. Taught by language alone they carry the first two or
three objects well and the others badly; with a location of its own to answer for, every token finds its object.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pixelllm_hf.modeling.modeling_pixelllm import PixelLLMForGroundedGeneration
from pixelllm_hf.training.auxiliary.cell_heads import AuxiliaryOutput, accuracy, attribute_loss, box_loss, class_loss
from pixelllm_hf.training.auxiliary.labels import BACKGROUND, ImageLabels
from pixelllm_hf.training.config import ConfigError
from pixelllm_hf.training.recipe_values import Few, NotNegative, RecipePart

TOKEN_HEADS_FILE = "token_heads.safetensors"
_TYPICAL_SIZE, _BOX_SCALE = 0.3, 0.2  # what a head that gives 0 means, and what 1 adds; in canvases


@dataclass
class TokenTaskConfig(RecipePart):
    """What the heads on the prompt tokens predict.

    Args:
        rows, columns: the grid over the canvas; cell i, counted row by row, is token i's. Further tokens are free.
        background_weight: of cells without an object in the class loss; most have none.
        attribute_loss_weight: of attributes (colour, size) where the instances carry them.
        box_loss_weight: of the guess at the object's box, mean absolute error in canvases.
    """

    rows: Few = 5
    columns: Few = 6
    background_weight: NotNegative = 0.3
    attribute_loss_weight: NotNegative = 0.3
    box_loss_weight: NotNegative = 10.0


class QueryTokenHeads(nn.Module):
    """Throw-away linear heads, the same for every token."""

    def __init__(self, width: int, num_tokens: int, classes: int, attributes: dict[str, int], task: TokenTaskConfig):
        """width, num_tokens: of the visual tokens; attributes: how many values each has."""
        super().__init__()
        self.task, self.num_cells = task, task.rows * task.columns
        if self.num_cells > num_tokens:
            raise ConfigError(
                f"A grid of {task.rows} x {task.columns} cells needs {self.num_cells} prompt tokens, but the model has "
                f"{num_tokens}. Make the grid smaller."
            )
        self.outputs = {"class": classes + 1} | {name: n + 1 for name, n in attributes.items()} | {"box": 4}
        self.norm = nn.LayerNorm(width)
        self.heads = nn.ModuleDict({name: nn.Linear(width, size) for name, size in self.outputs.items()})

    @classmethod
    def for_model(
        cls, model: PixelLLMForGroundedGeneration, labels: ImageLabels, task: TokenTaskConfig
    ) -> QueryTokenHeads:
        """For the prompt tokens of a model and the names in the labels."""
        attributes = {name: len(values) for name, values in labels.attribute_names.items()}
        prompt = model.config.prompt_config
        width = model.language_model.seen_width(model.config)
        return cls(width, prompt.num_tokens, len(labels.class_names), attributes, task)

    def forward(self, tokens: Tensor, labels: Tensor, boxes: Tensor) -> AuxiliaryOutput:
        """tokens (B,T,C) of the prompt that is the whole image; labels (B,1+A,G,G) and boxes (B,4,G,G) as in
        `PatchHeads`."""
        targets, target_boxes = objects_of_cells(labels, boxes, self.task.rows, self.task.columns)
        tokens = self.norm(tokens[:, : self.num_cells])
        logits = {name: head(tokens).float().transpose(1, 2) for name, head in self.heads.items()}
        here = targets[:, 0] > BACKGROUND
        parts = {"class": class_loss(logits["class"], targets[:, 0], self.task.background_weight)}
        total = parts["class"]
        for index, name in enumerate(list(self.outputs)[1:-1], 1):
            parts[name] = attribute_loss(logits[name], targets[:, index])
            total = total + self.task.attribute_loss_weight * parts[name]
        parts["box"] = box_loss((self._boxes(logits["box"].transpose(1, 2)) - target_boxes).abs().mean(-1), here)
        total = total + self.task.box_loss_weight * parts["box"]
        with torch.no_grad():
            parts["object_accuracy"] = accuracy(logits["class"].argmax(1) == targets[:, 0], here)
        return AuxiliaryOutput(loss=total, loss_parts=parts)

    def _boxes(self, raw: Tensor) -> Tensor:
        """What the box head gives (B,cells,4) -> centre and size, in canvases, from the middle of each cell on."""
        rows, columns = self.task.rows, self.task.columns
        y = (torch.arange(rows, device=raw.device) + 0.5) / rows
        x = (torch.arange(columns, device=raw.device) + 0.5) / columns
        middles = torch.cartesian_prod(y, x).flip(-1)
        start = torch.cat([middles, torch.full_like(middles, _TYPICAL_SIZE)], dim=-1)
        return start + _BOX_SCALE * raw


def objects_of_cells(labels: Tensor, boxes: Tensor, rows: int, columns: int) -> tuple[Tensor, Tensor]:
    """The object whose box has its centre in each cell of a grid; of several, the one that reaches lowest.

    labels (B,1+A,G,G), boxes (B,4,G,G) xyxy in canvases, as in `PatchHeads` -> labels (B,1+A,rows*columns), background
    where there is no object; boxes (B,rows*columns,4) centre and size, anything where there is none.
    """
    labels, boxes = labels.flatten(2).long(), boxes.flatten(2)
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    column, row = ((centres[:, i] * n).long().clamp(0, n - 1) for i, n in enumerate((columns, rows)))
    cell = torch.where(labels[:, 0] > BACKGROUND, row * columns + column, rows * columns)  # the last one is thrown away
    places = torch.arange(labels.shape[2], device=labels.device).expand_as(cell)
    empty = torch.full((len(labels), rows * columns + 1), -1, device=labels.device)
    chosen = empty.scatter_reduce(1, cell, places, "amax")[:, :-1]
    at = chosen.clamp(min=0)[:, None]
    found = labels.gather(2, at.expand(-1, labels.shape[1], -1)).masked_fill(chosen[:, None] < 0, BACKGROUND)
    box = boxes.gather(2, at.expand(-1, 4, -1))
    return found, torch.cat([(box[:, :2] + box[:, 2:]) / 2, box[:, 2:] - box[:, :2]], dim=1).transpose(1, 2)
