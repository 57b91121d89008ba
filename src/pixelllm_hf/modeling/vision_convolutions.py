"""Convolutions that vision towers with fixed statistics are made of: batch norm folded in, TensorFlow's padding."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import initialization as init

from .initialized_layers import InitializesItself


class TowerConv2d(InitializesItself, nn.Conv2d):
    """Square convolution that starts with He's weights, so that a new tower passes on what it sees; divided by
    `input_scale` where the input is not of unit size.

    Its padding is "same": half a kernel on each side, or with `tensorflow_padding` TensorFlow's, where a step of 2 puts
    the odd pixel at the bottom and the right.
    """

    def __init__(
        self,
        fan_in: int,
        fan_out: int,
        kernel_size: int,
        *,
        stride: int = 1,
        groups: int = 1,
        bias: bool = True,
        tensorflow_padding: bool = False,
        input_scale: float = 1.0,
    ):
        super().__init__(fan_in, fan_out, kernel_size, stride, kernel_size // 2, groups=groups, bias=bias)
        self.tensorflow_padding, self.input_scale = tensorflow_padding, input_scale
        self.init_weights()

    @torch.no_grad()
    def init_weights(self) -> None:
        fan_in = self.weight[0].numel()
        init.normal_(self.weight, std=(2 / fan_in) ** 0.5 / self.input_scale)
        if self.bias is not None:
            init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.convolve(x, self.weight, self.bias)

    def convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The convolution with other weights than its own: x (B, C, H, W) -> (B, C', ceil(H / s), ceil(W / s))."""
        if not self.tensorflow_padding or self.stride[0] == 1:
            return F.conv2d(x, weight, bias, self.stride, self.padding, groups=self.groups)
        (top, bottom), (left, right) = (self._around(size) for size in x.shape[-2:])
        if top == bottom and left == right:
            return F.conv2d(x, weight, bias, self.stride, (top, left), groups=self.groups)
        return F.conv2d(F.pad(x, (left, right, top, bottom)), weight, bias, self.stride, groups=self.groups)

    def _around(self, size: int) -> tuple[int, int]:
        step, kernel = self.stride[0], self.kernel_size[0]
        missing = max((-(-size // step) - 1) * step + kernel - size, 0)
        return missing // 2, missing - missing // 2


class ConvNorm(nn.Module):
    """Convolution and batch norm with fixed statistics as one convolution.

    The norm is folded into the weights on the fly, so that weights are saved as they came, and both train: only the
    statistics never change, whatever `train()` says. Batches of a few images would spoil them.
    """

    def __init__(self, conv: TowerConv2d, eps: float):
        super().__init__()
        self.conv = conv
        self.norm = nn.BatchNorm2d(conv.out_channels, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        norm = self.norm
        scale = norm.weight.float() * torch.rsqrt(norm.running_var.float() + norm.eps)
        bias = norm.bias.float() - norm.running_mean.float() * scale
        weight = self.conv.weight.float() * scale.view(-1, 1, 1, 1)
        return self.conv.convolve(x, weight.to(x.dtype), bias.to(x.dtype))


__all__ = ["ConvNorm", "TowerConv2d"]
