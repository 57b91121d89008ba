"""SAM's two-way transformer: tokens and an image map attend to each other (official.md#two-way-transformer)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from .linear import Linear


class TwoWayAttention(nn.Module):
    """Multi-head attention whose inner width may be smaller than its outer one."""

    def __init__(self, width: int, num_heads: int, downsample_rate: int = 1):
        super().__init__()
        inner = width // downsample_rate
        if inner % num_heads:
            raise ValueError(
                f"the inner width of an attention must be a multiple of num_heads={num_heads}, but it is {inner} "
                f"(width {width} / downsample rate {downsample_rate}). Change one of the three in the config."
            )
        self.num_heads = num_heads
        self.q_proj = Linear(width, inner)
        self.k_proj = Linear(width, inner)
        self.v_proj = Linear(width, inner)
        self.out_proj = Linear(inner, width)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        *,
        query_of_row: Tensor | None = None,
        key_of_row: Tensor | None = None,
    ) -> Tensor:
        """query (R,Q,C), key and value (R,K,C) -> (R,Q,C).

        Either side may come once for several rows and say which of its entries row r uses: query_of_row or
        key_of_row (R,). It is then projected once per entry.
        """
        q, k, v = (
            project(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for project, x in ((self.q_proj, query), (self.k_proj, key), (self.v_proj, value))
        )
        if query_of_row is not None:
            q = q[query_of_row]
        if key_of_row is not None:
            k, v = k[key_of_row], v[key_of_row]
        return self.out_proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class TwoWayMLP(nn.Module):
    def __init__(self, width: int, inner: int):
        super().__init__()
        self.lin1 = Linear(width, inner)
        self.lin2 = Linear(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.lin2(F.relu(self.lin1(x)))


class TwoWayLayer(GradientCheckpointingLayer):
    """Tokens to themselves, tokens to the map, MLP, map to the tokens; normalised after each."""

    def __init__(self, width: int, num_heads: int, mlp_width: int, downsample_rate: int, eps: float, *, first: bool):
        super().__init__()
        self.first = first
        self.self_attn = TwoWayAttention(width, num_heads)
        self.norm1 = nn.LayerNorm(width, eps=eps)
        self.cross_attn_token_to_image = TwoWayAttention(width, num_heads, downsample_rate)
        self.norm2 = nn.LayerNorm(width, eps=eps)
        self.mlp = TwoWayMLP(width, mlp_width)
        self.norm3 = nn.LayerNorm(width, eps=eps)
        self.norm4 = nn.LayerNorm(width, eps=eps)
        self.cross_attn_image_to_token = TwoWayAttention(width, num_heads, downsample_rate)

    def forward(
        self,
        tokens: Tensor,
        image: Tensor,
        token_pe: Tensor,
        image_pe: Tensor,
        image_of_row: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """tokens (R,T,C), image (R,HW,C) -> both, updated. With image_of_row (R,) the image comes as (B,HW,C)."""
        if self.first:
            # No positions and no residual: the output replaces the queries (official.md#two-way-transformer).
            tokens = self.self_attn(tokens, tokens, tokens)
        else:
            q = tokens + token_pe
            tokens = tokens + self.self_attn(q, q, tokens)
        tokens = self.norm1(tokens)
        seen = self.cross_attn_token_to_image(tokens + token_pe, image + image_pe, image, key_of_row=image_of_row)
        tokens = self.norm2(tokens + seen)
        tokens = self.norm3(tokens + self.mlp(tokens))
        told = self.cross_attn_image_to_token(image + image_pe, tokens + token_pe, tokens, query_of_row=image_of_row)
        if image_of_row is not None:
            image = image[image_of_row]
        return tokens, self.norm4(image + told)


class TwoWayTransformer(nn.Module):
    """The stack and a last look of the tokens at the map. Serves prompts, the mask adapter and the mask decoder."""

    def __init__(
        self,
        depth: int,
        width: int,
        num_heads: int,
        mlp_width: int,
        *,
        attention_downsample_rate: int = 2,
        eps: float = 1e-5,
    ):
        super().__init__()
        self.layers = nn.ModuleList(
            TwoWayLayer(width, num_heads, mlp_width, attention_downsample_rate, eps, first=i == 0) for i in range(depth)
        )
        self.final_attn_token_to_image = TwoWayAttention(width, num_heads, attention_downsample_rate)
        self.norm_final_attn = nn.LayerNorm(width, eps=eps)

    def forward(
        self, image_tokens: Tensor, image_pe: Tensor, tokens: Tensor, image_of_row: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """image_tokens (R,HW,D), image_pe (1,HW,D), tokens (R,T,D) -> tokens (R,T,D), image tokens (R,HW,D).

        The tokens' positions are the tokens themselves, as they come in. Rows that look at the same image may share
        it: image_tokens (B,HW,D) and image_of_row (R,) with the image of each row.
        """
        token_pe, image = tokens, image_tokens
        for layer in self.layers:
            tokens, image = layer(tokens, image, token_pe, image_pe, image_of_row)
            image_of_row = None  # from here on every row has a map of its own
        tokens = tokens + self.final_attn_token_to_image(tokens + token_pe, image + image_pe, image)
        return self.norm_final_attn(tokens), image
