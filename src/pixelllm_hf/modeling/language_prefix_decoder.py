"""A GIT-style prefix decoder (official.md#prefix-decoder): one BERT stack that reads the prompt and writes the text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.cache_utils import Cache
from transformers.modeling_layers import GradientCheckpointingLayer

from .configuration_language import PixelLLMPrefixDecoderConfig
from .configuration_pixelllm import PixelLLMConfig
from .language_model import GroundedLanguageModel, full_encoder_mask, make_visual_projection
from .linear import Linear
from .model_output import LayerOutputs
from .prompt_memory import answers_of, packed_memory, unpacked_memory, with_cells


class WordAndPositionEmbedding(nn.Module):
    """Words and learned positions; prompt and text share it, each counts its positions from 0."""

    def __init__(self, config: PixelLLMPrefixDecoderConfig):
        super().__init__()
        self.words = nn.Embedding(config.vocab_size, config.hidden_size)
        self.positions = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.layer_norm = nn.LayerNorm(config.hidden_size, eps=config.embedding_norm_eps)
        self.dropout = nn.Dropout(config.dropout_rate)

    def forward(self, ids: Tensor, start: int | Tensor = 0) -> Tensor:
        """ids (R,T), the first at position `start` -> (R,T,C)."""
        length, longest = ids.shape[1], self.positions.num_embeddings
        if isinstance(start, int) and start + length > longest:
            raise ValueError(
                f"a prompt or text of this model may have {longest} tokens (max_position_embeddings), but one has "
                f"{start + length}. Shorten it, or lower max_new_tokens."
            )
        positions = torch.arange(length, device=ids.device) + start
        return self.dropout(self.layer_norm(self.words(ids) + self.positions(positions)))


class PrefixAttention(nn.Module):
    """Attention whose keys and values are made apart from its queries, so that they can be kept."""

    def __init__(self, config: PixelLLMPrefixDecoderConfig):
        super().__init__()
        width, self.num_heads = config.hidden_size, config.num_attention_heads
        if width % self.num_heads:
            raise ValueError(
                f"hidden_size must be a multiple of num_attention_heads, but they are {width} and {self.num_heads}. "
                "Change either in the text config."
            )
        self.dropout_rate = config.dropout_rate
        self.query = Linear(width, width)
        self.key = Linear(width, width)
        self.value = Linear(width, width)
        self.out = Linear(width, width)

    def keys_values(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x (R,K,C) -> keys and values (R,heads,K,head_dim)."""
        return self._heads(self.key(x)), self._heads(self.value(x))

    def forward(self, x: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
        """x (R,T,C), keys and values (R,heads,K,head_dim), mask (R|1,1,T,K) True or 0 where seen -> (R,T,C)."""
        dropout = self.dropout_rate if self.training else 0.0
        # Under autocast what was kept may have another dtype than what is made now.
        query = self._heads(self.query(x)).to(keys.dtype)
        seen = F.scaled_dot_product_attention(query, keys, values, attn_mask=mask, dropout_p=dropout)
        return self.out(seen.transpose(1, 2).flatten(2))

    def weights(self, x: Tensor, keys: Tensor, mask: Tensor | None) -> Tensor:
        """How much `forward` attends to each key, without dropout: (R,heads,T,K)."""
        query = self._heads(self.query(x)).to(keys.dtype)
        scores = query @ keys.transpose(-1, -2) * query.shape[-1] ** -0.5
        if mask is not None:
            scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
        return scores.softmax(-1)

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


class PrefixDecoderLayer(GradientCheckpointingLayer):
    """A post-norm BERT layer; what it attends to comes from outside."""

    def __init__(self, config: PixelLLMPrefixDecoderConfig):
        super().__init__()
        width = config.hidden_size
        self.attention = PrefixAttention(config)
        self.attention_norm = nn.LayerNorm(width, eps=config.attention_norm_eps)
        self.lin1 = Linear(width, config.intermediate_size)
        self.lin2 = Linear(config.intermediate_size, width)
        self.mlp_norm = nn.LayerNorm(width, eps=config.mlp_norm_eps)
        self.dropout = nn.Dropout(config.dropout_rate)

    def forward(self, x: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
        """x (R,T,C) and what it sees, as in `PrefixAttention` -> (R,T,C)."""
        x = self.attention_norm(x + self.dropout(self.attention(x, keys, values, mask)))
        return self.mlp_norm(x + self.dropout(self.lin2(F.gelu(self.lin1(x)))))


class PrefixDecoderLanguageModel(GroundedLanguageModel):
    """One stack over the sequence [memory ; text]; memory is [visual tokens ; embedded prompt].

    Memory sees all of memory and no text; text sees all of memory and the text up to itself. What text sees of memory
    is therefore the same at every step: `encode` makes its keys and values once, `decode` reads them.
    Visual tokens come `visual_width` wide and are projected here, where heads do not see it.
    """

    def __init__(self, config: PixelLLMPrefixDecoderConfig, visual_width: int):
        super().__init__(config)
        width = config.hidden_size
        self.visual_projection = make_visual_projection(visual_width, width, config.visual_norm_eps)
        self.embedding = WordAndPositionEmbedding(config)
        self.layers: Any = nn.ModuleList(PrefixDecoderLayer(config) for _ in range(config.num_hidden_layers))
        self.lm_head = Linear(width, config.vocab_size)

    @classmethod
    def seen_width(cls, config: PixelLLMConfig) -> int:
        return config.prompt_config.output_dim

    def project_visual(self, visual_tokens: Tensor) -> Tensor:
        return visual_tokens

    @property
    def width(self) -> int:
        return self.config.hidden_size

    def get_input_embeddings(self) -> nn.Module:
        return self.embedding.words

    def set_input_embeddings(self, embeddings: nn.Module) -> None:
        self.embedding.words = embeddings

    def embed_prompt(
        self, visual_tokens: Tensor, input_ids: Tensor | None = None, attention_mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """visual_tokens (R,V,visual_width), input_ids (R,L), attention_mask (R,L) -> memory (R,V+L,C), mask bool.

        Visual tokens have no positions. Without a mask, text is valid where its id is not the padding id.
        """
        visual = self.visual_projection(visual_tokens)
        visual_mask = torch.ones(visual.shape[:2], dtype=torch.bool, device=visual.device)
        if input_ids is None:
            return visual, visual_mask
        words = self.embedding(input_ids).to(visual.dtype)
        return torch.cat([visual, words], dim=1), torch.cat(
            [visual_mask, self.text_mask(input_ids, attention_mask)], dim=1
        )

    def encode(self, embeddings: Tensor, mask: Tensor, *, layers: LayerOutputs | None = None) -> Tensor:
        """embeddings (R,S,C), mask (R,S) bool -> all that text sees of memory: `packed_memory` of its keys
        and values.

        layers: takes what the layers leave.
        """
        x, seen = embeddings, mask.bool()[:, None, None, :]
        kept = []
        for i, layer in enumerate(self.layers):
            keys, values = layer.attention.keys_values(x)
            kept.append((keys, values))
            if layers is not None and layers.hidden_states is not False:
                layers.add(encoder_hidden_states=x)
            if layers is not None and layers.attentions and i + 1 < len(self.layers):
                layers.add(encoder_attentions=layer.attention.weights(x, keys, seen))
            if i + 1 < len(self.layers):  # nobody sees what memory becomes in the last layer
                x = layer(x, keys, values, seen)
        return packed_memory(kept)

    def prefill(
        self,
        visual_tokens: Tensor,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        *,
        cells: Tensor | None = None,
        layers: LayerOutputs | None = None,
    ) -> tuple[Tensor, Tensor]:
        """See `GroundedLanguageModel.prefill`; cells (R,N,visual_width) are more visual tokens, after the others."""
        embeddings, mask = self.embed_prompt(with_cells(visual_tokens, cells), input_ids, attention_mask)
        return self.encode(embeddings, mask, layers=layers), mask

    def decode(
        self,
        decoder_input_ids: Tensor,
        encoder_states: Tensor,
        encoder_mask: Tensor | None,
        *,
        decoder_mask: Tensor | None = None,
        cache: Cache | None = None,
        use_cache: bool = False,
        layers: LayerOutputs | None = None,
    ) -> tuple[Tensor, Cache | None]:
        """See `GroundedLanguageModel.decode`. The cache holds text alone: a row's memory comes with every call, so
        beams of one row, which share it, are sorted without moving it.

        decoder_mask (R,T) changes nothing: text is padded on the right, where no word sees it, and the reference lets
        padding itself see as much as words do.
        """
        cache, of_text, start = answers_of(cache, use_cache)
        encoder_mask = full_encoder_mask(encoder_mask, encoder_states)
        memory = unpacked_memory(encoder_states)
        x, mask = self.embedding(decoder_input_ids, start), None
        for i, (layer, (memory_keys, memory_values)) in enumerate(zip(self.layers, memory, strict=True)):
            keys, values = layer.attention.keys_values(x)
            if of_text is not None:
                keys, values = of_text.update(keys, values, i)
            if mask is None:
                text_mask = decoder_mask if decoder_mask is not None and decoder_mask.ndim == 4 else None
                if text_mask is None:
                    text_mask = _causal(decoder_input_ids, start, keys.shape[2])
                mask = _joined(encoder_mask, text_mask, keys.dtype)
            keys, values = torch.cat([memory_keys, keys], dim=2), torch.cat([memory_values, values], dim=2)
            if layers is not None and layers.hidden_states is not False:
                layers.add(decoder_hidden_states=x)
            if layers is not None and layers.attentions:
                cross, own = layer.attention.weights(x, keys, mask).tensor_split([encoder_mask.shape[1]], dim=-1)
                layers.add(cross_attentions=cross, decoder_attentions=own)
            x = layer(x, keys, values, mask)
        if layers is not None and layers.hidden_states is not False:
            layers.add(decoder_hidden_states=x)
        return x, cache if use_cache else None

    @classmethod
    def lora_pattern(cls, targets: Sequence[str]) -> str:
        names = {"q": "query", "k": "key", "v": "value", "o": "out"}
        return rf"layers\..*\.attention\.({'|'.join(names[target] for target in targets)})"


def _causal(ids: Tensor, start: int | Tensor, num_keys: int) -> Tensor:
    """What ids (R,T), the first at position `start`, see of `num_keys` positions of text: (1,1,T,K) bool."""
    positions = torch.arange(ids.shape[1], device=ids.device) + start
    return (torch.arange(num_keys, device=ids.device) <= positions[:, None])[None, None]


def _joined(memory_mask: Tensor, text_mask: Tensor, dtype: torch.dtype) -> Tensor:
    """memory_mask (R,S) bool, text_mask (R|1,1,T,K) bool or additive -> what text sees of both, (R,1,T,S+K)."""
    rows, queries = memory_mask.shape[0], text_mask.shape[2]
    memory = memory_mask[:, None, None, :].expand(-1, -1, queries, -1)
    if text_mask.dtype != torch.bool:
        hidden = torch.finfo(dtype).min
        memory = torch.zeros(memory.shape, dtype=dtype, device=memory.device).masked_fill(~memory, hidden)
        text_mask = text_mask.to(dtype).clamp(min=hidden)
    return torch.cat([memory, text_mask.expand(rows, -1, -1, -1)], dim=-1)


__all__ = ["PrefixDecoderLanguageModel", "PrefixDecoderLayer"]
