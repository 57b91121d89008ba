"""Locations of words, read from the states that have consumed them (official.md#points), and how sure they are."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.utils import ModelOutput
from transformers.utils.generic import maybe_autocast

from .configuration_heads import PixelLLMPointHeadConfig
from .linear import linear

# Of a coordinate, 0..1 of the image: finer than a pixel of any canvas nobody needs to be, and the likelihood of an
# error of 0 would grow without end.
SMALLEST_SCALE = 0.002


@dataclass
class PointHeadOutput(ModelOutput):
    """What the head says of each token, in float32.

    coordinates (…,T,P,2) xy, 0..1 of the unpadded image; logits (…,T,P,num_classes+1) that no loss uses.
    coordinate_scales (…,T,P,2): the expected error of each coordinate, in its frame, the scale of a Laplace
    distribution; visual_logits (…,T): that the word has a location at all. None where the head does not predict them.
    """

    coordinates: Tensor | None = None
    logits: Tensor | None = None
    coordinate_scales: Tensor | None = None
    visual_logits: Tensor | None = None


class Float32Linear(nn.Linear):
    """Computes in float32 whatever its weights are kept in."""

    def forward(self, input: Tensor) -> Tensor:
        return linear(input.float(), self.weight.float(), self.bias.float())


class Float32LayerNorm(nn.LayerNorm):
    """Computes in float32 whatever its weights are kept in."""

    def forward(self, input: Tensor) -> Tensor:
        return F.layer_norm(input.float(), self.normalized_shape, self.weight.float(), self.bias.float(), self.eps)


class PointMLP(nn.Module):
    def __init__(self, fan_in: int, width: int, fan_out: int, depth: int):
        super().__init__()
        widths = [fan_in] + [width] * (depth - 1) + [fan_out]
        self.layers = nn.ModuleList(Float32Linear(a, b) for a, b in pairwise(widths))

    def hidden(self, x: Tensor) -> Tensor:
        """What the output layer reads."""
        for layer in self.layers[:-1]:
            x = F.gelu(layer(x))
        return x

    def forward(self, x: Tensor) -> Tensor:
        return self.layers[-1](self.hidden(x))


class PointHead(nn.Module):
    """The corners of a word's region (P = 2), or its place (P = 1), for every token. Always computed in float32.

    `scale` and `visual` are layers of their own, there where the config asks for them: official weights have neither.
    """

    def __init__(self, config: PixelLLMPointHeadConfig, text_width: int):
        super().__init__()
        self.points_per_token = config.points_per_token
        self.norm = Float32LayerNorm(text_width, eps=config.layer_norm_eps)
        channels = 2 + config.num_classes + 1
        self.mlp = PointMLP(text_width, config.hidden_size, config.points_per_token * channels, config.num_layers)
        width = self.mlp.layers[-1].in_features
        self.scale = Float32Linear(width, config.points_per_token * 2) if config.predict_scale else None
        self.visual = Float32Linear(width, 1) if config.predict_visual else None
        self.scale_factor = config.scale_factor
        self.visual_temperature, self.visual_bias = config.visual_temperature, config.visual_bias

    def forward(self, states: Tensor) -> PointHeadOutput:
        """states (…,T,C) -> places and unused logits. Places may leave 0..1: nothing clamps them."""
        with maybe_autocast(states.device.type, enabled=False):
            hidden = self.mlp.hidden(self.norm(states))
            raw = self.mlp.layers[-1](hidden).unflatten(-1, (self.points_per_token, -1))
            scales, visual = None, None
            if self.scale is not None:
                # Starts near 0.7, wider than all errors are: the first gradients are those of plain L1.
                scales = SMALLEST_SCALE + F.softplus(self.scale(hidden)).unflatten(-1, (self.points_per_token, 2))
            if self.visual is not None:
                visual = self.visual(hidden)[..., 0]
        # The reference regresses -1..1 and shifts here.
        return PointHeadOutput(
            coordinates=(raw[..., :2] + 1) / 2, logits=raw[..., 2:], coordinate_scales=scales, visual_logits=visual
        )

    def locate(self, states: Tensor, has_location: Tensor) -> dict[str, Tensor]:
        """What `generate` gives of tokens: states (…,T,C), has_location (…,T) bool -> entries of its output.

        coordinates and coordinate_scales (…,T,P,2), visual_probs (…,T) 0..1, the last two calibrated as the config
        says and there where they are predicted; NaN where there is no location.
        """
        found = self(states)
        said = {"coordinates": found.coordinates}
        if found.coordinate_scales is not None:
            said["coordinate_scales"] = found.coordinate_scales * self.scale_factor
        located = {name: value.masked_fill(~has_location[..., None, None], torch.nan) for name, value in said.items()}
        if found.visual_logits is not None:
            probs = torch.sigmoid(found.visual_logits / self.visual_temperature + self.visual_bias)
            located["visual_probs"] = probs.masked_fill(~has_location, torch.nan)
        return located
