"""A place on the image -> the visual tokens that the language model sees (official.md#prompt-feature-extractor)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import initialization as init

from .configuration_pixelllm import PixelLLMPromptConfig
from .initialized_layers import InitializesItself
from .linear import Linear
from .prompt_encoder import LearnedTokens
from .two_way_transformer import TwoWayTransformer

PLAIN_NUMBER_STD = 0.25  # of the first weights that read a plain number (chosen by how soon boxes were copied)


@dataclass
class PromptFeatures:
    """What the language model sees of R prompts: tokens (R,V,C) and, in models that read the map, the cells of each
    prompt's image, (R,h*w,C).
    """

    tokens: Tensor
    cells: Tensor | None = None

    def __getitem__(self, rows: Tensor) -> PromptFeatures:
        return PromptFeatures(self.tokens[rows], None if self.cells is None else self.cells[rows])


class Projection(nn.Module):
    """One linear layer under the name the reference gives it (its MLPs of one layer have no activation)."""

    def __init__(self, fan_in: int, fan_out: int):
        super().__init__()
        self.layers = nn.ModuleList([Linear(fan_in, fan_out)])

    def forward(self, x: Tensor) -> Tensor:
        return self.layers[0](x)


class MapLinear(InitializesItself, Linear):
    """Reads a map of which some channels are plain numbers, boxes say: a few among a thousand features, and to be
    copied, so that their weights start large enough to be heard.
    """

    def __init__(self, fan_in: int, fan_out: int, features: Sequence[bool]):
        """features (fan_in,): False where a channel is a plain number."""
        super().__init__(fan_in, fan_out)
        self.features = tuple(features)
        self.init_weights()

    @torch.no_grad()
    def init_weights(self) -> None:
        spread = torch.tensor([self.in_features**-0.5 if feature else PLAIN_NUMBER_STD for feature in self.features])
        init.copy_(self.weight, torch.randn(self.weight.shape) * spread)
        init.zeros_(self.bias)


class ChannelDropout(nn.Module):
    """While training, an image's map loses channels, all cells alike; plain numbers stay."""

    def __init__(self, share: float, features: Sequence[bool]):
        super().__init__()
        self.share, self.features = share, tuple(features)

    def forward(self, image_map: Tensor) -> Tensor:
        """image_map (B,h,w,C) -> the same, kept channels scaled up."""
        if not self.training or not self.share:
            return image_map
        features = torch.tensor(self.features, device=image_map.device)
        kept = F.dropout(torch.ones_like(image_map[:, :1, :1]), self.share)
        return image_map * torch.where(features, kept, 1.0)


class PromptFeatureExtractor(nn.Module):
    """Learnt tokens look at the image together with a prompt's tokens and carry away what the prompt is about."""

    def __init__(
        self,
        config: PixelLLMPromptConfig,
        image_channels: int,
        cell_width: int | None = None,
        features: Sequence[bool] | None = None,
    ):
        """cell_width: of the map's cells where the language model reads them, by default that of the transformer.
        features (image_channels,): False where a channel of the map is a plain number; None: nowhere.
        """
        super().__init__()
        width = config.hidden_size
        self.num_tokens = config.num_tokens
        self.output_tokens = LearnedTokens(config.num_tokens, width)
        self.image_projection_mlp = Projection(image_channels, width)
        if features is not None and not all(features):
            self.image_projection_mlp.layers[0] = MapLinear(image_channels, width, features)
        # One projection for sparse and dense prompts, one output layer a token (official.md#prompt-feature-extractor).
        self.prompt_embedding_projection_mlp = Projection(config.embed_dim, width)
        self.image_pe_projection_mlp = Projection(config.embed_dim, width)
        self.transformer = TwoWayTransformer(
            config.num_hidden_layers,
            width,
            config.num_attention_heads,
            config.intermediate_size,
            attention_downsample_rate=config.attention_downsample_rate,
            eps=config.layer_norm_eps,
        )
        self.output_hypernetworks_mlps = nn.ModuleList(
            Projection(width, config.output_dim) for _ in range(config.num_tokens)
        )
        self.dense_output_mlp = Projection(width, config.output_dim)  # nothing uses it: official weights have it
        self.map_projection, self.map_norm = None, None
        if config.reads_map:
            cell_width = cell_width or width
            self.map_projection = None if cell_width == width else Linear(width, cell_width)
            self.map_norm = nn.LayerNorm(cell_width, eps=config.layer_norm_eps)

    def forward(
        self, image_map: Tensor, image_pe: Tensor, sparse: Tensor, dense: Tensor, prompt_mask: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """-> visual tokens (R,num_tokens,output_dim) of the R valid prompts, image-major, and with `reads_map` the
        cells of their images, (R,h*w,cell_width).

        image_map (B,h,w,C), image_pe (h,w,E), sparse (B,N,S,E), dense (1,E), prompt_mask (B,N) bool.
        """
        image_of_row: Tensor | None = prompt_mask.nonzero()[:, 0]
        prompts = sparse[prompt_mask]
        if prompt_mask.shape[1] == 1 and len(prompts) == len(image_map):
            image_of_row = None  # one prompt each, nothing to share
        return self.of_rows(image_map, image_pe, prompts, dense, image_of_row)

    def of_rows(
        self, image_map: Tensor, image_pe: Tensor, sparse: Tensor, dense: Tensor, image_of_row: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """The same of R rows: sparse (R,S,E) and the image of each, image_of_row (R,); without it each has its own."""
        images, positions = self._projected(image_map, image_pe)
        tokens, _ = self._attend(images, positions, sparse, dense, image_of_row)
        learnt = tokens[:, : self.num_tokens].unbind(1)
        seen = torch.stack([mlp(x) for mlp, x in zip(self.output_hypernetworks_mlps, learnt, strict=True)], dim=1)
        if self.map_norm is None:
            return seen, None
        # Before any prompt has looked: behind the two-way transformer a small model learns to read them much later.
        # That adds positions where it compares and never to what it carries; cells are told theirs here.
        cells = images + positions
        cells = self.map_norm(cells if self.map_projection is None else self.map_projection(cells))
        return seen, cells if image_of_row is None else cells[image_of_row]

    def _projected(self, image_map: Tensor, image_pe: Tensor) -> tuple[Tensor, Tensor]:
        """The cells of each image (B,h*w,D) and their positions (1,h*w,D)."""
        images = self.image_projection_mlp(image_map.flatten(1, 2))
        return images, self.image_pe_projection_mlp(image_pe.flatten(0, 1)[None].to(image_map.dtype))

    def _attend(
        self, images: Tensor, positions: Tensor, sparse: Tensor, dense: Tensor, image_of_row: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """images (B,h*w,D), positions (1,h*w,D), sparse (R,S,E), image_of_row (R,) or None -> tokens (R,T,D), cells."""
        images = images + self.prompt_embedding_projection_mlp(dense.to(images.dtype))
        prompts = self.prompt_embedding_projection_mlp(sparse.to(images.dtype))
        learnt = self.output_tokens.weight.to(prompts.dtype).expand(prompts.shape[0], -1, -1)
        return self.transformer(images, positions, torch.cat([learnt, prompts], dim=1), image_of_row)
