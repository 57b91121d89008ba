"""The heads that auxiliary labels teach through, as one: on the towers' maps and on the prompt tokens."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pixelllm_hf.modeling.modeling_pixelllm import PixelLLMForGroundedGeneration
from pixelllm_hf.modeling.vision_towers import VisionFeatures
from pixelllm_hf.training.auxiliary.cell_heads import CELL_HEADS_FILE, AuxiliaryOutput, CellTaskConfig, PatchHeads
from pixelllm_hf.training.auxiliary.labels import ImageLabels
from pixelllm_hf.training.auxiliary.token_heads import TOKEN_HEADS_FILE, QueryTokenHeads, TokenTaskConfig
from pixelllm_hf.training.config import ConfigError

# What the log shows of either.
_CELL_LOOKS = ("fused_box", "fused_foreground_accuracy")
_TOKEN_LOOKS = ("box", "object_accuracy")


class AuxiliaryHeads(nn.Module):
    """Heads on the towers' maps, heads on the prompt tokens, or both; their losses as one weighted sum."""

    def __init__(
        self,
        cells: PatchHeads | None,
        tokens: QueryTokenHeads | None = None,
        *,
        cells_weight: float = 1.0,
        tokens_weight: float = 1.0,
    ):
        super().__init__()
        self.cells, self.cells_weight = cells, cells_weight
        self.tokens, self.tokens_weight = tokens, tokens_weight

    @classmethod
    def for_model(
        cls,
        model: PixelLLMForGroundedGeneration,
        labels: ImageLabels,
        *,
        cells: CellTaskConfig | None,
        tokens: TokenTaskConfig | None,
        cell_file: str | None = None,
        token_file: str | None = None,
        cells_weight: float = 1.0,
        tokens_weight: float = 1.0,
    ) -> AuxiliaryHeads:
        """For a model and the names in the labels; a task that is None has no heads. Files are as `save` writes them,
        without one heads begin at random. A file that does not fit is a ConfigError."""
        cell_heads = None if cells is None else PatchHeads.for_model(model.config.vision_config, labels, cells)
        token_heads = None if tokens is None else QueryTokenHeads.for_model(model, labels, tokens)
        for heads, file, objective in (
            (cell_heads, cell_file, "towers"),
            (token_heads, token_file, "prompt_tokens"),
        ):
            if heads is not None and file is not None:
                _load(heads, file, objective)
        return cls(cell_heads, token_heads, cells_weight=cells_weight, tokens_weight=tokens_weight)

    def forward(
        self, features: VisionFeatures, visual_tokens: Callable[[], Tensor], labels: Tensor, boxes: Tensor
    ) -> AuxiliaryOutput:
        """features, labels (B,1+A,G,G) and boxes (B,4,G,G) as in `PatchHeads`; visual_tokens gives those of the whole
        images, (B,T,C), and is called if prompt tokens have heads. loss_parts: "cells" and "tokens", without weights,
        and what tells how it goes."""
        total = labels.new_zeros((), dtype=torch.float32)
        parts: dict[str, Tensor] = {}
        if self.cells is not None:
            found = self.cells(features, labels, boxes)
            total = total + self.cells_weight * found.loss
            parts |= {"cells": found.loss}
            parts |= {name: found.loss_parts[name] for name in _CELL_LOOKS if name in found.loss_parts}
        if self.tokens is not None:
            found = self.tokens(visual_tokens(), labels, boxes)
            total = total + self.tokens_weight * found.loss
            parts |= {"tokens": found.loss}
            parts |= {f"token_{name}": found.loss_parts[name] for name in _TOKEN_LOOKS}
        return AuxiliaryOutput(loss=total, loss_parts=parts)

    def save(self, folder: Path) -> None:
        """The heads' weights beside a model, for a recipe that goes on."""
        for heads, name in ((self.cells, CELL_HEADS_FILE), (self.tokens, TOKEN_HEADS_FILE)):
            if heads is not None:
                state = {k: v.detach().cpu().float().contiguous() for k, v in heads.state_dict().items()}
                save_file(state, str(folder / name))


def _load(heads: nn.Module, file: str, objective: str) -> None:
    try:
        heads.load_state_dict(load_file(file))
    except (OSError, RuntimeError) as error:
        raise ConfigError(
            f"The heads {file!r} cannot be taken ({error}). Make them with a recipe of objective {objective} "
            "from the same instances and settings."
        ) from error
