"""EVA02 image encoder (official.md#eva02): rotary positions, SwiGLU with an inner norm, global attention throughout."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from .configuration_towers import PixelLLMEva02TowerConfig
from .linear import Linear
from .vision_sam import DropPath, PatchEmbed, resize_map


def rotary_angles(size_hw: tuple[int, int], head_dim: int, theta: float, device: torch.device) -> Tensor:
    """Angle of every pair of channels, float32 (1 + h*w, head_dim / 2); the CLS token's are 0, it does not turn.

    Positions are the plain row and column numbers, at every grid size (no rescaling to the pretraining grid). The
    first half of the pairs turns with the row, the second with the column.
    """
    half = head_dim // 2
    frequencies = theta ** (-torch.arange(0, half, 2, dtype=torch.float32, device=device) / half)
    rows = torch.arange(size_hw[0], dtype=torch.float32, device=device)[:, None] * frequencies
    columns = torch.arange(size_hw[1], dtype=torch.float32, device=device)[:, None] * frequencies
    rows = rows[:, None].expand(*size_hw, -1)
    columns = columns[None, :].expand(*size_hw, -1)
    return F.pad(torch.cat([rows, columns], dim=-1).flatten(0, 1), (0, 0, 1, 0))


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turns adjacent channel pairs: x (..., T, D), cos and sin (T, D / 2) -> (..., T, D) in the dtype of x."""
    first, second = x.unflatten(-1, (-1, 2)).unbind(-1)
    turned = torch.stack([first * cos - second * sin, second * cos + first * sin], dim=-1)
    return turned.flatten(-2).to(x.dtype)


class Eva02Attention(nn.Module):
    """Self-attention over all tokens, rotary positions on queries and keys; the key has no bias."""

    def __init__(self, config: PixelLLMEva02TowerConfig):
        super().__init__()
        width, self.num_heads = config.hidden_size, config.num_attention_heads
        if width % (4 * self.num_heads):
            raise ValueError(
                "hidden_size / num_attention_heads must be a multiple of 4 (rotary pairs for rows and for columns), "
                f"but they are {width} and {self.num_heads}. Change either in the EVA02 tower's config."
            )
        self.q_proj = Linear(width, width, bias=False)
        self.k_proj = Linear(width, width, bias=False)
        self.v_proj = Linear(width, width, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(width))
        self.v_bias = nn.Parameter(torch.zeros(width))
        self.proj = Linear(width, width)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """x (B, T, C), cos and sin (T, head_dim / 2) -> (B, T, C)."""
        query = rotate(self._heads(self.q_proj(x) + self.q_bias), cos, sin)
        key = rotate(self._heads(self.k_proj(x)), cos, sin)
        value = self._heads(self.v_proj(x) + self.v_bias)
        # Under autocast the biases have promoted query and value, but not the key.
        x = F.scaled_dot_product_attention(query, key.to(query.dtype), value)
        return self.proj(x.transpose(1, 2).flatten(2))

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)  # (B, heads, T, head_dim)


class Eva02MLP(nn.Module):
    """SwiGLU, with a layer norm before its output projection where the config says so."""

    def __init__(self, config: PixelLLMEva02TowerConfig):
        super().__init__()
        self.w1 = Linear(config.hidden_size, config.intermediate_size)
        self.w2 = Linear(config.hidden_size, config.intermediate_size)
        self.ffn_ln: nn.Module = nn.Identity()
        if config.inner_norm:
            self.ffn_ln = nn.LayerNorm(config.intermediate_size, eps=config.inner_layer_norm_eps)
        self.w3 = Linear(config.intermediate_size, config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        return self.w3(self.ffn_ln(F.silu(self.w1(x)) * self.w2(x)))


class Eva02Block(GradientCheckpointingLayer):
    """Pre-norm transformer block."""

    def __init__(self, config: PixelLLMEva02TowerConfig, drop_path_rate: float):
        super().__init__()
        self.norm1 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.attn = Eva02Attention(config)
        self.norm2 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = Eva02MLP(config)
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """x (B, T, C), cos and sin (T, head_dim / 2) -> (B, T, C)."""
        x = x + self.drop_path(self.attn(self.norm1(x), cos, sin))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class Eva02VisionTower(nn.Module):
    """EVA02 image encoder; its output map leaves the CLS token out.

    >>> config = PixelLLMEva02TowerConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2)
    >>> Eva02VisionTower(config)(torch.zeros(1, 3, 64, 64))["patches"].shape
    torch.Size([1, 4, 4, 32])
    """

    def __init__(self, config: PixelLLMEva02TowerConfig):
        super().__init__()
        self.config = config
        width = config.hidden_size
        self.table_size = config.pretrain_image_size // config.patch_size
        self.patch_embed = PatchEmbed(config.patch_size, width)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + self.table_size**2, width))
        rates = DropPath.rates(config.drop_path_rate, config.num_hidden_layers)
        self.blocks = nn.ModuleList(Eva02Block(config, rate) for rate in rates)
        self.ln_post = nn.LayerNorm(width, eps=config.layer_norm_eps)

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """pixels (B, 3, H, W), normalised, padding 0 -> "patches" (B, H // patch, W // patch, C)."""
        return {"patches": self.tokens(pixels)[:, 1:].unflatten(1, self.grid_hw(pixels))}

    def tokens(self, pixels: Tensor) -> Tensor:
        """pixels (B, 3, H, W), normalised, padding 0 -> tokens (B, 1 + h*w, C), CLS first, patches row by row."""
        grid_hw = self.grid_hw(pixels)
        x = self.patch_embed(pixels).flatten(1, 2)
        cls_position, positions = self.pos_embed[:, :1], self.pos_embed[:, 1:]
        positions = resize_map(positions.unflatten(1, (self.table_size, self.table_size)), grid_hw).flatten(1, 2)
        cls_token = (self.cls_token + cls_position).expand(x.shape[0], -1, -1)
        x = torch.cat([cls_token, x + positions], dim=1)

        head_dim = self.config.hidden_size // self.config.num_attention_heads
        angles = rotary_angles(grid_hw, head_dim, self.config.rope_theta, x.device)
        cos, sin = angles.cos(), angles.sin()
        for block in self.blocks:
            x = block(x, cos, sin)
        return self.ln_post(x)

    def grid_hw(self, pixels: Tensor) -> tuple[int, int]:
        """Whole patches per column and per row of pixels (..., H, W)."""
        return pixels.shape[-2] // self.config.patch_size, pixels.shape[-1] // self.config.patch_size


__all__ = ["Eva02Attention", "Eva02VisionTower", "rotary_angles", "rotate"]
