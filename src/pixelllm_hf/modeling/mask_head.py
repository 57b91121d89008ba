"""Masks of what a caption refers to: an adapter that whispers to SAM's mask decoder (official.md#masks)."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import initialization as init
from transformers.utils import ModelOutput

from .configuration_heads import PixelLLMMaskHeadConfig
from .configuration_pixelllm import PixelLLMConfig
from .initialized_layers import InitializesItself
from .linear import Linear
from .prompt_encoder import LearnedTokens
from .two_way_transformer import TwoWayTransformer

BOX_TOKENS = 2  # top-left and bottom-right corner
# Without gradients rows go through the decoder in chunks, so that memory does not grow with their number.
CHUNK_SIZE = 64


@dataclass
class MaskHeadOutput(ModelOutput):
    """logits (R,M,4h,4w) over SAM's part of the canvas, > 0 inside; iou_predictions (R,M): how good each should be."""

    logits: Tensor | None = None
    iou_predictions: Tensor | None = None

    def best(self) -> tuple[Tensor, Tensor]:
        """The mask of each row that promises the best overlap: logits (R,4h,4w), iou_predictions (R,)."""
        assert self.logits is not None and self.iou_predictions is not None
        best, index = self.iou_predictions.max(1)
        return self.logits.take_along_dim(index[:, None, None, None], 1).squeeze(1), best


class NormedProjection(nn.Module):
    """LayerNorm and one linear layer, under the names of the reference."""

    def __init__(self, fan_in: int, fan_out: int, eps: float):
        super().__init__()
        self.norm = nn.LayerNorm(fan_in, eps=eps)
        self.layers = nn.ModuleList([Linear(fan_in, fan_out)])

    def forward(self, x: Tensor) -> Tensor:
        return self.layers[0](self.norm(x))


class MaskMLP(nn.Module):
    def __init__(self, fan_in: int, width: int, fan_out: int, depth: int):
        super().__init__()
        widths = [fan_in] + [width] * (depth - 1) + [fan_out]
        self.layers = nn.ModuleList(Linear(a, b) for a, b in pairwise(widths))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        return self.layers[-1](x)


class ChannelNorm(InitializesItself, nn.LayerNorm):
    """LayerNorm over the channels of a map (R,C,h,w)."""

    @torch.no_grad()
    def init_weights(self) -> None:
        init.ones_(self.weight)
        init.zeros_(self.bias)

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class MaskAdapter(nn.Module):
    """What the language model knows of the object, added to the tokens of its box.

    The gate is closed at first: a new adapter leaves SAM's own box prompt as it is.
    """

    def __init__(self, config: PixelLLMMaskHeadConfig, visual_width: int, text_width: int):
        super().__init__()
        width, eps = config.hidden_size, config.layer_norm_eps
        self.output_tokens = LearnedTokens(BOX_TOKENS, width)
        self.alpha = nn.Parameter(torch.zeros(BOX_TOKENS, width))
        self.visual_projection_mlp = NormedProjection(visual_width, width, eps)
        self.textual_projection_mlp = NormedProjection(text_width, width, eps)
        self.transformer = _transformer(config, config.adapter_layers)

    def forward(self, box_tokens: Tensor, visual_tokens: Tensor, text_states: Tensor) -> Tensor:
        """box_tokens (R,2,C), visual_tokens (R,V,Cv), text_states (R,T,Ct) -> adapted box tokens (R,2,C).

        All T states are read, those of EOS and padding too, as in the reference: pad captions to one length, or a mask
        depends on the length of its neighbours' captions.
        """
        memory = torch.cat([self.visual_projection_mlp(visual_tokens), self.textual_projection_mlp(text_states)], dim=1)
        # the memory has no positions (official.md#two-way-transformer)
        nowhere = memory.new_zeros(1, 1, memory.shape[-1])
        learnt = self.output_tokens.weight.to(memory.dtype).expand(len(memory), -1, -1)
        attended, _ = self.transformer(memory, nowhere, learnt)
        return box_tokens.to(attended.dtype) + self.alpha.tanh().to(attended.dtype) * attended


class SamMaskDecoder(nn.Module):
    """SAM's mask decoder; names are those of `segment_anything`, whose weights load as they are."""

    def __init__(self, config: PixelLLMMaskHeadConfig):
        super().__init__()
        width, hidden, depth = config.hidden_size, config.head_hidden_size, config.head_layers
        num_masks = config.num_multimask_outputs + 1
        self.iou_token = LearnedTokens(1, width)
        self.mask_tokens = LearnedTokens(num_masks, width)
        self.transformer = _transformer(config, config.decoder_layers)
        self.output_upscaling = nn.Sequential(
            nn.ConvTranspose2d(width, width // 4, kernel_size=2, stride=2),
            ChannelNorm(width // 4, eps=config.layer_norm_eps),
            nn.GELU(),
            nn.ConvTranspose2d(width // 4, width // 8, kernel_size=2, stride=2),
            nn.GELU(),
        )
        self.output_hypernetworks_mlps = nn.ModuleList(
            MaskMLP(width, hidden, width // 8, depth) for _ in range(num_masks)
        )
        self.iou_prediction_head = MaskMLP(width, hidden, num_masks, depth)

    def forward(
        self,
        image_map: Tensor,
        image_pe: Tensor,
        dense: Tensor,
        sparse: Tensor,
        image_of_row: Tensor,
        *,
        multimask_output: bool = False,
        chunk_size: int = CHUNK_SIZE,
    ) -> MaskHeadOutput:
        """R prompts of B images -> one mask each, or with multimask_output the others, as in SAM.

        image_map (B,h,w,C) SAM's, image_pe (h,w,C), dense (1,C), sparse (R,S,C), image_of_row (R,) index of the image
        of each row. What does not depend on the prompt is computed once per image.
        """
        widths = self.iou_token.embedding_dim, image_map.shape[-1], sparse.shape[-1]
        if len(set(widths)) > 1:
            _refuse_widths(*widths)
        images = image_map + dense.to(image_map.dtype)
        positions = image_pe.flatten(0, 1)[None].to(image_map.dtype)
        rows = len(sparse)
        # Training keeps what every chunk computed, so there chunks would save nothing.
        step = rows if torch.is_grad_enabled() else chunk_size
        logits, quality = [], []
        for start in range(0, max(rows, 1), max(step, 1)):
            of_row = image_of_row[start : start + step]
            seen, of_row = of_row.unique(return_inverse=True)
            parts = self._decode(images[seen], positions, sparse[start : start + step], of_row, multimask_output)
            logits.append(parts[0])
            quality.append(parts[1])
        return MaskHeadOutput(logits=torch.cat(logits), iou_predictions=torch.cat(quality))

    def _decode(
        self, images: Tensor, positions: Tensor, sparse: Tensor, image_of_row: Tensor, multimask_output: bool
    ) -> tuple[Tensor, Tensor]:
        learnt = torch.cat([self.iou_token.weight, self.mask_tokens.weight]).to(images.dtype)
        tokens = torch.cat([learnt.expand(len(sparse), -1, -1), sparse.to(images.dtype)], dim=1)
        tokens, maps = self.transformer(images.flatten(1, 2), positions, tokens, image_of_row)
        maps = self.output_upscaling(maps.transpose(1, 2).unflatten(2, images.shape[1:3]))

        num_masks = self.mask_tokens.num_embeddings
        wanted = range(1, num_masks) if multimask_output else range(1)
        filters = torch.stack([self.output_hypernetworks_mlps[i](tokens[:, 1 + i]) for i in wanted], dim=1)
        logits = torch.einsum("rmc,rchw->rmhw", filters, maps)
        return logits, self.iou_prediction_head(tokens[:, 0])[:, list(wanted)]


class MaskHead(nn.Module):
    """Adapter and decoder together: a box, and what was said and seen of it, become a mask."""

    def __init__(
        self, config: PixelLLMMaskHeadConfig, visual_width: int, text_width: int, map_channels: int | None = None
    ):
        """map_channels: of the map that masks are made from; one of another width than SAM's is projected to it."""
        super().__init__()
        self.adapter = MaskAdapter(config, visual_width, text_width)
        self.decoder = SamMaskDecoder(config)
        same = map_channels in (None, config.hidden_size)
        self.map_projection = None if same else Linear(map_channels, config.hidden_size)

    def project_map(self, image_map: Tensor) -> Tensor:
        """image_map (B,h,w,C) -> (B,h,w,hidden_size), what the decoder reads."""
        return image_map if self.map_projection is None else self.map_projection(image_map)

    def forward(
        self,
        image_map: Tensor,
        image_pe: Tensor,
        dense: Tensor,
        box_tokens: Tensor,
        visual_tokens: Tensor,
        text_states: Tensor,
        image_of_row: Tensor,
        *,
        multimask_output: bool = False,
    ) -> MaskHeadOutput:
        """Shapes as in `MaskAdapter` and `SamMaskDecoder`; box_tokens (R,2,C) are the prompt encoder's."""
        sparse = self.adapter(box_tokens, visual_tokens, text_states)
        return self.decoder(
            self.project_map(image_map), image_pe, dense, sparse, image_of_row, multimask_output=multimask_output
        )


def check_one_width(config: PixelLLMConfig) -> None:
    """Raise unless the prompt encoder has the width of the mask decoder; the map is projected to that."""
    if config.mask_head_config.hidden_size != config.prompt_config.embed_dim:
        _refuse_widths(
            config.mask_head_config.hidden_size, config.vision_config.mask_map_channels, config.prompt_config.embed_dim
        )


def _refuse_widths(of_decoder: int, of_map: int, of_prompt: int) -> None:
    raise ValueError(
        "the mask decoder, its map and the prompt encoder must have one width, but they have "
        f"{of_decoder}, {of_map} and {of_prompt}. Set hidden_size of mask_head_config and embed_dim of prompt_config "
        "alike; a map of another width is projected by a MaskHead that is told its map_channels."
    )


def _transformer(config: PixelLLMMaskHeadConfig, depth: int) -> TwoWayTransformer:
    return TwoWayTransformer(
        depth,
        config.hidden_size,
        config.num_attention_heads,
        config.intermediate_size,
        attention_downsample_rate=config.attention_downsample_rate,
        eps=config.transformer_layer_norm_eps,
    )


__all__ = ["MaskAdapter", "MaskHead", "MaskHeadOutput", "SamMaskDecoder", "check_one_width"]
