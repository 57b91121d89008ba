"""What decoders keep of a prompt, and how answers are written behind it: keys and values as rows, a cache."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicCache, EncoderDecoderCache


def with_cells(visual_tokens: Tensor, cells: Tensor | None) -> Tensor:
    """visual_tokens (R,V,C) and after them the cells (R,N,C) of the image's map, if they are read."""
    if cells is None:
        return visual_tokens
    return torch.cat([visual_tokens, cells.to(visual_tokens.dtype)], dim=1)


def packed_memory(kept: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """Keys and values (R,heads,S,head_dim) of every layer -> (R,S,layers,2,heads,head_dim), whose rows may be repeated,
    selected and sorted like any others."""
    memory = torch.stack([torch.stack(pair, dim=1) for pair in kept], dim=1)  # R,layers,2,heads,S,head_dim
    return memory.permute(0, 4, 1, 2, 3, 5)


def unpacked_memory(memory: Tensor) -> Tensor:
    """The way back: (layers,2,R,heads,S,head_dim)."""
    return memory.permute(2, 3, 0, 4, 1, 5)


def answers_of(cache: Cache | None, use_cache: bool) -> tuple[Cache | None, Cache | None, int | Tensor]:
    """A cache of `decode`, made where one is wanted and none came; the part that holds answers; how many tokens of them
    it has consumed."""
    if cache is None and use_cache:
        cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
    of_text = cache.self_attention_cache if isinstance(cache, EncoderDecoderCache) else cache
    start = 0 if of_text is None else of_text.get_seq_length()
    # A static cache counts on in place.
    return cache, of_text, start.clone() if isinstance(start, Tensor) else start


__all__ = ["answers_of", "packed_memory", "unpacked_memory", "with_cells"]
