"""PixelLM's light pixel decoder: the embeddings of targets and maps of several scales become masks, without SAM.

Source: "PixelLM: Pixel Reasoning with Large Multimodal Model" (arXiv 2312.02228), section 3.2, and the released
implementation's `mask_decoder`, whose parameter names are kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import initialization as init
from transformers.utils import ModelOutput

from .configuration_pixellm import PixelLMCodebookConfig
from .initialized_layers import InitializesItself
from .mask_head import ChannelNorm, MaskMLP
from .prompt_encoder import FourierPositions, LearnedTokens, grid_positions
from .two_way_transformer import TwoWayTransformer

# SAM's decoder, which this one is made after, has tokens of four masks. All four take part in attention; one is read.
NUM_MASK_TOKENS = 4


@dataclass
class CodebookDecoderOutput(ModelOutput):
    """logits (K,H,W) of K targets on the finest level's grid, > 0 inside; level_logits: (K,h,w) of each level."""

    logits: Tensor | None = None
    level_logits: tuple[Tensor, ...] | None = None


class CodebookPixelDecoder(InitializesItself, nn.Module):
    """One two-way transformer a scale; every scale looks where the one before has found the target.

    Level 0 is the deepest map, decoded on its own grid. The maps of further levels are enlarged twice and weighed with
    the level before, `map * (sigmoid(mask) + 1)`. The released decoder knows one and two levels; from the third on the
    mask before is resized to the grid, which is an extension of ours.
    """

    def __init__(self, config: PixelLMCodebookConfig):
        super().__init__()
        width, levels = config.hidden_size, config.num_scales
        self.transformer = nn.ModuleList(
            TwoWayTransformer(
                config.num_hidden_layers,
                width,
                config.num_attention_heads,
                config.intermediate_size,
                attention_downsample_rate=config.attention_downsample_rate,
                eps=config.transformer_layer_norm_eps,
            )
            for _ in range(levels)
        )
        self.iou_token = LearnedTokens(1, width)
        self.mask_tokens = LearnedTokens(NUM_MASK_TOKENS, width)
        self.level_embed = LearnedTokens(levels, width)
        self.no_mask_embed = LearnedTokens(1, width)
        self.pe_layer = FourierPositions(width, 1.0)
        if levels > 1:
            self.pe1 = FourierPositions(width, 1.0)  # a matrix of its own, as released
            self.upsample_2x = nn.Sequential(
                nn.ConvTranspose2d(width, width, kernel_size=2, stride=2),
                ChannelNorm(width, eps=config.layer_norm_eps),
                nn.GELU(),
            )
        self.output_upscaling = nn.Sequential(
            nn.ConvTranspose2d(width, width // 8, kernel_size=2, stride=2),
            ChannelNorm(width // 8, eps=config.layer_norm_eps),
            nn.GELU(),
        )
        # a list of one: the released decoder has a filter for each mask token, and reads the first
        self.output_hypernetworks_mlps = nn.ModuleList([MaskMLP(width, width, width // 8, 3)])
        self.level_scales = nn.Parameter(torch.full((levels,), 1 / levels), requires_grad=config.trainable_scales)

    @torch.no_grad()
    def init_weights(self) -> None:
        init.constant_(self.level_scales, 1 / len(self.level_scales))

    def forward(
        self, level_maps: Sequence[Tensor], target_embeddings: Tensor, image_of_target: Tensor
    ) -> CodebookDecoderOutput:
        """level_maps: L maps (B,h,w,C) on one grid, deepest first; target_embeddings (K,L,C); image_of_target (K,).

        K may be 0. Raises ValueError where the maps are not one for each level or not of one grid.
        """
        levels = len(self.transformer)
        if len(level_maps) != levels or len({tuple(level.shape) for level in level_maps}) != 1:
            raise ValueError(
                f"the decoder needs {levels} maps of one shape (images, height, width, channels), but got "
                f"{[tuple(level.shape) for level in level_maps]}. Resize them to one grid and project them alike."
            )
        tokens = torch.cat([self.iou_token.weight, self.mask_tokens.weight]).expand(len(target_embeddings), -1, -1)
        found: list[Tensor] = []
        for level, image_map in enumerate(level_maps):
            queries = torch.cat([tokens, target_embeddings[:, level, None]], dim=1) + self.level_embed.weight[level]
            if level == 0:
                source, image_of_row = image_map, image_of_target
                positions = grid_positions(self.pe_layer, *source.shape[1:3])
            else:
                source, image_of_row = self._finer(image_map, found[-1], image_of_target), None
                positions = grid_positions(self.pe1, *source.shape[1:3])
            found.append(self._decode(level, source, positions, queries.to(source.dtype), image_of_row))
        size = found[-1].shape[-2:]
        resized = [resize_logits(mask, size).to(mask) for mask in found]
        logits = sum(scale * mask for scale, mask in zip(self.level_scales, resized, strict=True))
        return CodebookDecoderOutput(logits=logits, level_logits=tuple(found))

    def _finer(self, image_map: Tensor, before: Tensor, image_of_target: Tensor) -> Tensor:
        """The enlarged map of each target (K,2h,2w,C), brighter where the level before (K,h',w') saw the target."""
        enlarged = self.upsample_2x(image_map.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)[image_of_target]
        return enlarged * (resize_logits(before, enlarged.shape[1:3]).to(before).sigmoid() + 1)[..., None].to(
            enlarged.dtype
        )

    def _decode(
        self, level: int, source: Tensor, positions: Tensor, queries: Tensor, image_of_row: Tensor | None
    ) -> Tensor:
        """source (B or K,h,w,C), queries (K,T,C) -> logits (K,2h,2w)."""
        grid_hw = source.shape[1:3]
        source = source + self.no_mask_embed.weight.to(source.dtype)
        positions = positions.flatten(0, 1)[None].to(source.dtype)
        queries, cells = self.transformer[level](source.flatten(1, 2), positions, queries, image_of_row)
        upscaled = self.output_upscaling(cells.transpose(1, 2).unflatten(2, grid_hw))
        return torch.einsum("kc,kchw->khw", self.output_hypernetworks_mlps[0](queries[:, 1]), upscaled)


def resize_logits(logits: Tensor, size_hw: Sequence[int]) -> Tensor:
    """logits (K,h,w) -> float32 (K,H,W), bilinear; also of no mask at all."""
    if tuple(logits.shape[-2:]) == tuple(size_hw):
        return logits.float()
    if not len(logits):
        return logits.new_zeros(0, *size_hw, dtype=torch.float32)
    return F.interpolate(logits[:, None].float(), tuple(size_hw), mode="bilinear", align_corners=False)[:, 0]


__all__ = ["CodebookDecoderOutput", "CodebookPixelDecoder", "resize_logits"]
