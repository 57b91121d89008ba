"""SAM's image encoder (official.md#sam), and the two small parts that both vision towers are made of.

The towers work on channels-last maps (B, h, w, C); convolutions see them through a permute, which costs nothing.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from .configuration_towers import PixelLLMSamTowerConfig
from .linear import Linear


def resize_map(image_map: Tensor, size_hw: tuple[int, int], mode: str = "bicubic") -> Tensor:
    """A map (..., h, w, C) at another grid size: half-pixel centres, antialiased when shrinking; dtype unchanged.

    `mode` is "bicubic" or "bilinear". With `antialias`, torch's bicubic kernel is Keys' a = -0.5 like the reference's,
    also when enlarging; without it a = -0.75 would not match. Computed in float32.

    >>> resize_map(torch.zeros(1, 8, 8, 4), (9, 9)).shape
    torch.Size([1, 9, 9, 4])
    """
    if tuple(image_map.shape[-3:-1]) == tuple(size_hw):
        return image_map
    planes = image_map.reshape(-1, *image_map.shape[-3:]).permute(0, 3, 1, 2).float()
    resized = F.interpolate(planes, size=tuple(size_hw), mode=mode, align_corners=False, antialias=True)
    resized = resized.permute(0, 2, 3, 1).contiguous()
    return resized.reshape(*image_map.shape[:-3], *resized.shape[1:]).to(image_map.dtype)


class DropPath(nn.Module):
    """Drops a residual branch for whole samples while training; what is kept is scaled up to the same mean."""

    def __init__(self, rate: float):
        super().__init__()
        self.rate = rate

    @staticmethod
    def rates(last: float, depth: int) -> list[float]:
        """The rate of every block, rising linearly from 0 to `last`."""
        return [last * i / max(depth - 1, 1) for i in range(depth)]

    def forward(self, branch: Tensor) -> Tensor:
        """branch (B, ...) -> (B, ...)."""
        if not self.training or self.rate == 0.0:
            return branch
        keep = 1.0 - self.rate
        kept = branch.new_empty(len(branch), *[1] * (branch.ndim - 1)).bernoulli_(keep)
        return branch * (kept / keep if keep > 0.0 else kept)

    def extra_repr(self) -> str:
        return f"rate={self.rate:.3g}"


class SamAttention(nn.Module):
    """Self-attention over a grid; relative positions add a bias per row offset and one per column offset."""

    def __init__(self, config: PixelLLMSamTowerConfig, table_size: int):
        super().__init__()
        width, self.num_heads = config.hidden_size, config.num_attention_heads
        if width % self.num_heads:
            raise ValueError(
                f"hidden_size must be a multiple of num_attention_heads, but they are {width} and {self.num_heads}. "
                "Change either in the SAM tower's config."
            )
        self.head_dim = width // self.num_heads
        self.qkv = Linear(width, 3 * width)
        self.proj = Linear(width, width)
        self.rel_pos_h = nn.Parameter(torch.zeros(2 * table_size - 1, self.head_dim))
        self.rel_pos_w = nn.Parameter(torch.zeros(2 * table_size - 1, self.head_dim))

    def forward(self, x: Tensor, window: int = 0) -> Tensor:
        """x (B, h, w, C) -> (B, h, w, C); every cell attends to every cell, or to those of its window.

        As in the reference nothing masks the padding of windows: its cells are zeros that get the bias of `qkv` and
        take part. They are alike, so they are projected once; those of a 24 x 24 grid would be a third more work.
        """
        size_hw = (x.shape[1], x.shape[2])
        qkv = self.qkv(x)
        if window:
            padded = size_hw[0] % window or size_hw[1] % window
            qkv = split_windows(qkv, window, self.qkv(x.new_zeros(x.shape[-1])) if padded else None)
        batch, height, width = qkv.shape[:3]
        qkv = qkv.reshape(batch, height * width, 3, self.num_heads, self.head_dim)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # each (B, heads, h*w, head_dim)
        offsets = self.position_scores(query, (height, width))
        places = _row_and_column(height, width, like=key).expand(batch, self.num_heads, -1, -1)
        x = F.scaled_dot_product_attention(
            torch.cat([query, offsets], dim=-1),
            torch.cat([key, places], dim=-1),
            F.pad(value, (0, height + width)),  # fused kernels want values as wide as keys
            scale=self.head_dim**-0.5,
        )
        x = x[..., : self.head_dim].transpose(1, 2).reshape(batch, height, width, -1)
        return self.proj(join_windows(x, window, size_hw) if window else x)

    def position_scores(self, query: Tensor, size_hw: tuple[int, int]) -> Tensor:
        """query (B, heads, h*w, head_dim), before its scaling -> (B, heads, h*w, h + w): what each query adds to the
        scores of every row and of every column, times head_dim**0.5.

        The reference adds the two to its (h*w, h*w) scores. Here they are further channels of the queries, which those
        of keys pick with ones: the same sums, and no tensor of h*w times h*w, which took longer than the attention.
        """
        query = query.unflatten(2, size_hw)
        rows = _relative_positions(self.rel_pos_h, size_hw[0]).to(query.dtype)
        columns = _relative_positions(self.rel_pos_w, size_hw[1]).to(query.dtype)
        rows = torch.einsum("bnyxc,ykc->bnyxk", query, rows)
        columns = torch.einsum("bnyxc,xkc->bnyxk", query, columns)
        return torch.cat([rows, columns], dim=-1).flatten(2, 3) * self.head_dim**0.5


def _row_and_column(height: int, width: int, like: Tensor) -> Tensor:
    """(h*w, h + w): of each cell, 1 at its row and at its column."""
    rows = torch.eye(height, dtype=like.dtype, device=like.device).repeat_interleave(width, dim=0)
    columns = torch.eye(width, dtype=like.dtype, device=like.device).repeat(height, 1)
    return torch.cat([rows, columns], dim=1)


def _relative_positions(table: Tensor, size: int) -> Tensor:
    """table (2 * L - 1, head_dim) -> (size, size, head_dim): [q, k] is the entry of offset q - k.

    A table of another length is first resized linearly, as the reference does with global blocks at 384.
    """
    table = resize_map(table.unsqueeze(1), (2 * size - 1, 1), mode="bilinear").squeeze(1)
    steps = torch.arange(size, device=table.device)
    return table[steps[:, None] - steps[None, :] + size - 1]


class SamMLP(nn.Module):
    """Linear, exact GELU, linear."""

    def __init__(self, config: PixelLLMSamTowerConfig):
        super().__init__()
        inner = int(config.hidden_size * config.mlp_ratio)
        self.lin1 = Linear(config.hidden_size, inner)
        self.lin2 = Linear(inner, config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        return self.lin2(F.gelu(self.lin1(x)))


class SamBlock(GradientCheckpointingLayer):
    """Pre-norm transformer block that attends within windows, or over the whole grid where `window_size` is 0."""

    def __init__(self, config: PixelLLMSamTowerConfig, window_size: int, drop_path_rate: float):
        super().__init__()
        self.window_size = window_size
        self.norm1 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.attn = SamAttention(config, window_size or config.pretrain_image_size // config.patch_size)
        self.norm2 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = SamMLP(config)
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, h, w, C) -> (B, h, w, C)."""
        x = x + self.drop_path(self.attn(self.norm1(x), self.window_size))
        return x + self.drop_path(self.mlp(self.norm2(x)))


def split_windows(x: Tensor, window: int, padding: Tensor | None = None) -> Tensor:
    """x (B, h, w, C) -> (B * windows, window, window, C); padding (C,), or zeros, at the bottom and the right."""
    height, width = x.shape[1:3]
    bottom, right = -height % window, -width % window
    if bottom or right:
        if padding is None:
            padding = x.new_zeros(x.shape[-1])
        x = torch.cat([x, padding.expand(x.shape[0], height, right, -1)], dim=2)
        x = torch.cat([x, padding.expand(x.shape[0], bottom, width + right, -1)], dim=1)
    x = x.unflatten(2, (-1, window)).unflatten(1, (-1, window))  # (B, rows, window, columns, window, C)
    return x.transpose(2, 3).flatten(0, 2)


def join_windows(windows: Tensor, window: int, size_hw: tuple[int, int]) -> Tensor:
    """Undoes `split_windows`: (B * windows, window, window, C) -> (B, h, w, C), padding cut off."""
    height, width = size_hw
    rows, columns = -(-height // window), -(-width // window)
    x = windows.unflatten(0, (-1, rows, columns)).transpose(2, 3)
    x = x.reshape(-1, rows * window, columns * window, windows.shape[-1])
    return x[:, :height, :width]


class PatchEmbed(nn.Module):
    """Pixels to patches: a convolution as wide as its stride; pixels beyond the last whole patch are unused."""

    def __init__(self, patch_size: int, width: int):
        super().__init__()
        self.proj = nn.Conv2d(3, width, kernel_size=patch_size, stride=patch_size)

    def forward(self, pixels: Tensor) -> Tensor:
        """pixels (B, 3, H, W) -> (B, H // patch, W // patch, C)."""
        patches = self.proj(pixels.to(self.proj.weight.dtype))
        # Contiguous once: every later sum would keep the convolution's channels-first strides.
        return patches.permute(0, 2, 3, 1).contiguous()


class SamVisionTower(nn.Module):
    """SAM's image encoder: patches, windowed and global blocks, and the neck whose map is the only output.

    >>> tower = SamVisionTower(PixelLLMSamTowerConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2))
    >>> tower(torch.zeros(1, 3, 64, 64))["neck"].shape
    torch.Size([1, 4, 4, 256])
    """

    def __init__(self, config: PixelLLMSamTowerConfig):
        super().__init__()
        self.config = config
        width, channels = config.hidden_size, config.output_channels
        table_size = config.pretrain_image_size // config.patch_size
        self.patch_embed = PatchEmbed(config.patch_size, width)
        self.pos_embed = nn.Parameter(torch.zeros(1, table_size, table_size, width))
        rates = DropPath.rates(config.drop_path_rate, config.num_hidden_layers)
        self.blocks = nn.ModuleList(
            SamBlock(config, 0 if i in config.global_attn_indexes else config.window_size, rate)
            for i, rate in enumerate(rates)
        )
        self.neck = nn.ModuleList(
            [
                nn.Conv2d(width, channels, kernel_size=1, bias=False),
                nn.LayerNorm(channels, eps=config.layer_norm_eps),
                nn.Conv2d(channels, channels, kernel_size=3, padding=1, bias=False),
                nn.LayerNorm(channels, eps=config.layer_norm_eps),
            ]
        )

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """pixels (B, 3, H, W), normalised, padding 0 -> "neck" (B, H // patch, W // patch, output_channels)."""
        x = self.patch_embed(pixels)
        x = x + resize_map(self.pos_embed, (x.shape[1], x.shape[2]))
        for block in self.blocks:
            x = block(x)
        first, first_norm, second, second_norm = self.neck
        x = first_norm(first(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))
        return {"neck": second_norm(second(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))}


__all__ = ["DropPath", "PatchEmbed", "SamAttention", "SamVisionTower", "join_windows", "resize_map", "split_windows"]
