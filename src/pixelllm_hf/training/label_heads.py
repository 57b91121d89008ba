"""The heads that dense labels teach through, as one: on the towers' maps and on the prompt tokens."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pixelllm_hf.modeling.modeling_pixelllm import PixelLLMForGroundedGeneration
from pixelllm_hf.modeling.vision_towers import VisionFeatures
from pixelllm_hf.training.config import ConfigError
from pixelllm_hf.training.dense_heads import DENSE_HEADS_FILE, DenseHeads, DenseLabelOutput, DenseTaskConfig
from pixelllm_hf.training.dense_labels import DenseLabels
from pixelllm_hf.training.token_heads import TOKEN_HEADS_FILE, TokenHeads, TokenTaskConfig

# What the log shows of either.
_DENSE_LOOKS = ("fused_box", "fused_foreground_accuracy")
_TOKEN_LOOKS = ("box", "object_accuracy")


class LabelHeads(nn.Module):
    """Heads on the towers' maps, heads on the prompt tokens, or both; their losses as one weighted sum."""

    def __init__(
        self,
        dense: DenseHeads | None,
        tokens: TokenHeads | None = None,
        *,
        dense_weight: float = 1.0,
        token_weight: float = 1.0,
    ):
        super().__init__()
        self.dense, self.dense_weight = dense, dense_weight
        self.tokens, self.token_weight = tokens, token_weight

    @classmethod
    def for_model(
        cls,
        model: PixelLLMForGroundedGeneration,
        labels: DenseLabels,
        *,
        dense: DenseTaskConfig | None,
        tokens: TokenTaskConfig | None,
        dense_file: str | None = None,
        token_file: str | None = None,
        dense_weight: float = 1.0,
        token_weight: float = 1.0,
    ) -> LabelHeads:
        """For a model and the names in the labels; a task that is None has no heads. Files are as `save` writes them,
        without one heads begin at random. A file that does not fit is a ConfigError."""
        dense_heads = None if dense is None else DenseHeads.for_model(model.config.vision_config, labels, dense)
        token_heads = None if tokens is None else TokenHeads.for_model(model, labels, tokens)
        for heads, file, script in (
            (dense_heads, dense_file, "pretrain_vision.py"),
            (token_heads, token_file, "pretrain_prompt.py"),
        ):
            if heads is not None and file is not None:
                _load(heads, file, script)
        return cls(dense_heads, token_heads, dense_weight=dense_weight, token_weight=token_weight)

    def forward(
        self, features: VisionFeatures, visual_tokens: Callable[[], Tensor], labels: Tensor, boxes: Tensor
    ) -> DenseLabelOutput:
        """features, labels (B,1+A,G,G) and boxes (B,4,G,G) as in `DenseHeads`; visual_tokens gives those of the whole
        images, (B,T,C), and is called if prompt tokens have heads. loss_parts: "dense" and "tokens", without weights,
        and what tells how it goes."""
        total = labels.new_zeros((), dtype=torch.float32)
        parts: dict[str, Tensor] = {}
        if self.dense is not None:
            found = self.dense(features, labels, boxes)
            total = total + self.dense_weight * found.loss
            parts |= {"dense": found.loss}
            parts |= {name: found.loss_parts[name] for name in _DENSE_LOOKS if name in found.loss_parts}
        if self.tokens is not None:
            found = self.tokens(visual_tokens(), labels, boxes)
            total = total + self.token_weight * found.loss
            parts |= {"tokens": found.loss}
            parts |= {f"token_{name}": found.loss_parts[name] for name in _TOKEN_LOOKS}
        return DenseLabelOutput(loss=total, loss_parts=parts)

    def save(self, folder: Path) -> None:
        """The heads' weights beside a model, for a recipe that goes on."""
        for heads, name in ((self.dense, DENSE_HEADS_FILE), (self.tokens, TOKEN_HEADS_FILE)):
            if heads is not None:
                state = {k: v.detach().cpu().float().contiguous() for k, v in heads.state_dict().items()}
                save_file(state, str(folder / name))


def _load(heads: nn.Module, file: str, script: str) -> None:
    try:
        heads.load_state_dict(load_file(file))
    except (OSError, RuntimeError) as error:
        raise ConfigError(
            f"The heads {file!r} cannot be taken ({error}). Make them with scripts/{script} from the same instances "
            "and task."
        ) from error
