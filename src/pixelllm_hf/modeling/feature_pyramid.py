"""A feature pyramid from one map (ViTDet's; official.md#detector)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from .configuration_heads import PixelLLMProposalHeadConfig


class NormedConv(nn.Conv2d):
    """A convolution without bias, same size, and a LayerNorm over its channels; channels first."""

    def __init__(self, fan_in: int, fan_out: int, kernel_size: int):
        super().__init__(fan_in, fan_out, kernel_size, padding=kernel_size // 2, bias=False)
        self.norm = nn.LayerNorm(fan_out, eps=1e-6)

    def forward(self, input: Tensor) -> Tensor:
        return self.norm(super().forward(input).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def map_neck(fan_in: int, fan_out: int) -> nn.Sequential:
    """SAM's neck for maps with channels first: a projection of every cell, then one of its neighbourhood."""
    return nn.Sequential(NormedConv(fan_in, fan_out, 1), NormedConv(fan_out, fan_out, 3))


class CoarseLevels(nn.Module):
    """Two more levels, each at half the size of the one before."""

    def __init__(self, channels: int):
        super().__init__()
        self.p6 = nn.Conv2d(channels, channels, kernel_size=3, stride=2, padding=1)
        self.p7 = nn.Conv2d(channels, channels, kernel_size=3, stride=2, padding=1)

    def forward(self, x: Tensor) -> list[Tensor]:
        p6 = self.p6(x)
        return [p6, self.p7(F.relu(p6))]


class SimpleFeaturePyramid(nn.Module):
    """Five levels at 2, 1, 1/2, 1/4 and 1/8 of the size of one map."""

    def __init__(self, config: PixelLLMProposalHeadConfig, image_channels: int):
        super().__init__()
        channels, upsampled = config.pyramid_channels, config.pyramid_input_size // 2
        # The numbers in these names are the reference's: log2 of the nominal stride.
        self.simfp_3 = nn.Sequential(
            nn.ConvTranspose2d(image_channels, upsampled, kernel_size=2, stride=2),
            NormedConv(upsampled, channels, 1),
            NormedConv(channels, channels, 3),
        )
        self.simfp_4 = map_neck(image_channels, channels)
        self.simfp_5 = nn.Sequential(
            nn.MaxPool2d(2), NormedConv(image_channels, channels, 1), NormedConv(channels, channels, 3)
        )
        self.top_block = CoarseLevels(channels)

    def forward(self, image_map: Tensor) -> list[Tensor]:
        """image_map (B,h,w,Ci) -> five maps (B,h_l,w_l,C), the finest first."""
        x = image_map.permute(0, 3, 1, 2)
        levels = [self.simfp_3(x), self.simfp_4(x), self.simfp_5(x)]
        levels += self.top_block(levels[-1])
        return [level.permute(0, 2, 3, 1) for level in levels]


__all__ = ["CoarseLevels", "NormedConv", "SimpleFeaturePyramid"]
