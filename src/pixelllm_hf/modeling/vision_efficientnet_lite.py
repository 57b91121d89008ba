"""EfficientNet-Lite: a small convolutional tower that knows ImageNet's things.

Source: Tan & Le, "EfficientNet" (arXiv 1905.11946), and the Lite variants of the official TensorFlow code
(`efficientnet/lite/efficientnet_lite_builder.py`): no squeeze-and-excitation, ReLU6, stem and head of one width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from .configuration_towers import PixelLLMEfficientNetLiteTowerConfig
from .vision_convolutions import ConvNorm, TowerConv2d


class EfficientNetLiteBlock(GradientCheckpointingLayer):
    """Inverted residual: widen, filter each channel, narrow; added to the input where the shapes are the same."""

    def __init__(self, fan_in: int, fan_out: int, *, kernel_size: int, stride: int, expand_ratio: int, eps: float):
        super().__init__()
        inner = fan_in * expand_ratio
        self.expand = None if expand_ratio == 1 else _conv_norm(fan_in, inner, 1, eps=eps)
        self.depthwise = _conv_norm(inner, inner, kernel_size, stride=stride, groups=inner, eps=eps)
        self.project = _conv_norm(inner, fan_out, 1, eps=eps)
        self.residual = stride == 1 and fan_in == fan_out

    def forward(self, x: Tensor) -> Tensor:
        """x (B, C, h, w) -> (B, C', ceil(h / stride), ceil(w / stride))."""
        branch = x if self.expand is None else F.relu6(self.expand(x))
        branch = self.project(F.relu6(self.depthwise(branch)))
        return x + branch if self.residual else branch


class EfficientNetLiteTower(nn.Module):
    """The stages up to the deepest one that is asked for, and the head's 1x1 convolution if that is.

    >>> config = PixelLLMEfficientNetLiteTowerConfig(output_maps=["stage3", "head"])
    >>> {name: tuple(m.shape) for name, m in EfficientNetLiteTower(config)(torch.zeros(1, 3, 64, 64)).items()}
    {'stage3': (1, 8, 8, 40), 'head': (1, 2, 2, 1280)}
    """

    def __init__(self, config: PixelLLMEfficientNetLiteTowerConfig):
        super().__init__()
        self.config = config
        eps, fan_in = config.batch_norm_eps, config.stem_channels
        self.stem = _conv_norm(3, fan_in, 3, stride=2, eps=eps)
        self.stages = nn.ModuleList()
        for stage in range(config.num_stages):
            blocks, fan_out = nn.ModuleList(), config.stage_channels[stage]
            for index in range(config.stage_depths[stage]):
                blocks.append(
                    EfficientNetLiteBlock(
                        fan_in,
                        fan_out,
                        kernel_size=config.stage_kernels[stage],
                        stride=config.stage_strides[stage] if index == 0 else 1,
                        expand_ratio=1 if stage == 0 else config.expand_ratio,
                        eps=eps,
                    )
                )
                fan_in = fan_out
            self.stages.append(blocks)
        self.head = _conv_norm(fan_in, config.head_channels, 1, eps=eps) if "head" in config.output_maps else None

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """pixels (B, 3, H, W), normalised, padding 0 -> the maps that `output_maps` asks for, channels last."""
        x = pixels.to(self.stem.conv.weight.dtype).contiguous(memory_format=torch.channels_last)
        x = F.relu6(self.stem(x))
        seen = {}
        for number, blocks in enumerate(self.stages, 1):
            for block in blocks.children():
                x = block(x)
            seen[f"stage{number}"] = x
        if self.head is not None:
            seen["head"] = F.relu6(self.head(x))
        return {name: seen[name].permute(0, 2, 3, 1).contiguous() for name in self.config.output_maps}


def _conv_norm(
    fan_in: int, fan_out: int, kernel_size: int, *, stride: int = 1, groups: int = 1, eps: float
) -> ConvNorm:
    conv = TowerConv2d(fan_in, fan_out, kernel_size, stride=stride, groups=groups, bias=False, tensorflow_padding=True)
    return ConvNorm(conv, eps)


__all__ = ["EfficientNetLiteBlock", "EfficientNetLiteTower"]
