"""Places of words, read from the states that have consumed them (spec section 6)."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn
from transformers.utils import ModelOutput
from transformers.utils.generic import maybe_autocast

from .configuration_pixelllm import PixelLLMPointHeadConfig


@dataclass
class PointHeadOutput(ModelOutput):
    """coordinates (…,T,P,2) float32 xy, 0..1 of the unpadded image; logits (…,T,P,num_classes+1) that no loss uses."""

    coordinates: Tensor | None = None
    logits: Tensor | None = None


class Float32Linear(nn.Linear):
    """Computes in float32 whatever its weights are kept in."""

    def forward(self, input: Tensor) -> Tensor:
        return F.linear(input.float(), self.weight.float(), self.bias.float())


class Float32LayerNorm(nn.LayerNorm):
    """Computes in float32 whatever its weights are kept in."""

    def forward(self, input: Tensor) -> Tensor:
        return F.layer_norm(input.float(), self.normalized_shape, self.weight.float(), self.bias.float(), self.eps)


class PointMLP(nn.Module):
    def __init__(self, fan_in: int, width: int, fan_out: int, depth: int):
        super().__init__()
        widths = [fan_in] + [width] * (depth - 1) + [fan_out]
        self.layers = nn.ModuleList(Float32Linear(a, b) for a, b in pairwise(widths))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = F.gelu(layer(x))
        return self.layers[-1](x)


class PointHead(nn.Module):
    """The corners of a word's region (P = 2), or its place (P = 1), for every token. Always computed in float32."""

    def __init__(self, config: PixelLLMPointHeadConfig, text_width: int):
        super().__init__()
        self.points_per_token = config.points_per_token
        self.norm = Float32LayerNorm(text_width, eps=config.layer_norm_eps)
        channels = 2 + config.num_classes + 1
        self.mlp = PointMLP(text_width, config.hidden_size, config.points_per_token * channels, config.num_layers)

    def forward(self, states: Tensor) -> PointHeadOutput:
        """states (…,T,C) -> places and unused logits. Places may leave 0..1: nothing clamps them."""
        with maybe_autocast(states.device.type, enabled=False):
            raw = self.mlp(self.norm(states)).unflatten(-1, (self.points_per_token, -1))
        # The reference regresses -1..1 and shifts here.
        return PointHeadOutput(coordinates=(raw[..., :2] + 1) / 2, logits=raw[..., 2:])
