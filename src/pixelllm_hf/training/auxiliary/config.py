"""The `auxiliary` part of a recipe."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from pixelllm_hf.training.auxiliary.cell_heads import CellTaskConfig
from pixelllm_hf.training.auxiliary.masks import MaskTaskConfig
from pixelllm_hf.training.auxiliary.token_heads import TokenTaskConfig
from pixelllm_hf.training.recipe_values import Few, NotNegative, RecipePart, Share


@dataclass
class AuxiliaryConfig(RecipePart):
    """What COCO instances teach: beside language (objective `language`), or by themselves before it.

    Args:
        instances: COCO instances file of the images.
        images: folder of the images, where no language source shows them.
        eval_instances, eval_images: the same, held out; without them the last `eval_fraction` of the images is.
        flip: mirror half of the images; classes do not mind. Without language alone.
        label_cells: labels per side of the canvas; None has `cells.sub_cells` for each cell of the towers' fused map.
        cells: what every cell of the towers' maps learns, with `cells_weight` in the total.
        cell_heads: `cell_heads.safetensors` of an earlier stage to go on with. Random heads would first teach the
            towers nonsense.
        tokens: what the prompt tokens learn, with `tokens_weight`; None leaves them out.
        token_heads: `token_heads.safetensors` of an earlier stage, likewise.
        masks: what objective `masks` asks for.
    """

    instances: str
    images: str = ""
    eval_instances: str | None = None
    eval_images: str | None = None
    eval_fraction: Share = 0.02
    flip: bool = False
    label_cells: Few | None = None
    cells: CellTaskConfig = field(default_factory=CellTaskConfig)
    cell_heads: str | None = None
    cells_weight: NotNegative = 1.0
    tokens: TokenTaskConfig | None = None
    token_heads: str | None = None
    tokens_weight: NotNegative = 1.0
    masks: MaskTaskConfig = field(default_factory=MaskTaskConfig)

    def label_side(self, model_config: Any) -> int:
        """Labels per side of the canvas, for a model with this config."""
        return self.label_cells or model_config.vision_config.grid_size * self.cells.sub_cells
