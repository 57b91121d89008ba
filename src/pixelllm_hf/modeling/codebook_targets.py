"""PixelLM's segmentation codebook: which tokens of an answer are targets, and what each target's tokens say together.

A target is written as a group of `num_scales * tokens_per_scale` tokens in a fixed order, the tokens of the deepest
scale first (arXiv 2312.02228, section 3.1).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import initialization as init

from .configuration_pixellm import PixelLMCodebookConfig
from .initialized_layers import InitializesItself
from .linear import Linear


@dataclass(frozen=True)
class TokenGroups:
    """The K complete groups of R answers: row (K,) of each, positions (K,G) of its tokens; incomplete (R,) rows with
    codebook tokens that belong to no complete group (cut off by the length limit, or out of order)."""

    row: Tensor
    positions: Tensor
    incomplete: Tensor

    def per_row(self) -> Tensor:
        """How many targets each row has, (R,)."""
        return torch.bincount(self.row, minlength=len(self.incomplete))


def find_token_groups(sequences: Tensor, codebook_ids: Sequence[int]) -> TokenGroups:
    """sequences (R,T) ids -> the groups in them, in order of rows and positions.

    A group counts where all its tokens stand in order without a gap. The released `evaluate()` drops every mask of an
    answer with a wrong number of codebook tokens; here the complete groups stay and the answer is marked.

    >>> find_token_groups(torch.tensor([[5, 8, 9, 8, 9, 8]]), [8, 9]).positions.tolist()
    [[1, 2], [3, 4]]
    """
    ids = torch.as_tensor(codebook_ids, device=sequences.device)
    if len(ids.unique()) != len(ids):
        raise ValueError(
            f"the codebook's tokens must be different, but their ids are {ids.tolist()}. Look the ids up by token "
            "(convert_tokens_to_ids), not by tokenizing: the first piece of several tokens may be the same."
        )
    size = len(ids)
    belongs = torch.isin(sequences, ids)
    windows = (
        sequences.unfold(1, size, 1) if sequences.shape[1] >= size else sequences.new_zeros(len(sequences), 0, size)
    )
    row, start = (windows == ids).all(-1).nonzero(as_tuple=True)
    positions = start[:, None] + torch.arange(size, device=sequences.device)
    return TokenGroups(row, positions, belongs.sum(1) != size * torch.bincount(row, minlength=len(sequences)))


class TargetTokens(InitializesItself, nn.Module):
    """The codebook: what its tokens are read as, and how they are written.

    Weights of their own stand in for the tokens' rows of the vocabulary, whose other rows may so stay frozen.
    """

    def __init__(self, token_ids: Sequence[int], width: int):
        super().__init__()
        self.token_ids = list(token_ids)
        self.embedding = nn.Parameter(torch.empty(len(self.token_ids), width))
        self.output = nn.Parameter(torch.empty(len(self.token_ids), width))
        self.init_weights()

    @torch.no_grad()
    def init_weights(self) -> None:
        init.normal_(self.embedding, std=1.0)  # as T5 draws its words
        init.normal_(self.output, std=self.output.shape[1] ** -0.5)

    def embed(self, input_ids: Tensor, words: Tensor) -> Tensor:
        """words (…,C), the vocabulary's embeddings of input_ids (…), with the codebook's own for its tokens."""
        hits = input_ids[..., None] == torch.tensor(self.token_ids, device=input_ids.device)
        own = hits.to(words.dtype) @ self.embedding.to(words.dtype)
        return torch.where(hits.any(-1, keepdim=True), own, words)

    def logits(self, states: Tensor, logits: Tensor) -> Tensor:
        """logits (…,V) of the vocabulary with the codebook's own scores for its tokens."""
        index = torch.tensor(self.token_ids, device=logits.device)
        return logits.index_copy(-1, index, F.linear(states, self.output.to(states.dtype)).to(logits.dtype))


class TargetProjection(InitializesItself, nn.Module):
    """The states of a group's tokens become one embedding for each scale: projected, then summed with learnt scales.

    The scales start from the released constants, 1 / (scales * tokens per scale); one set serves all scales, as
    released. `trainable_scales=False` keeps them.
    """

    def __init__(self, config: PixelLMCodebookConfig, text_width: int):
        super().__init__()
        self.num_scales, self.tokens_per_scale = config.num_scales, config.tokens_per_scale
        self.text_hidden_fcs = nn.Sequential(
            Linear(text_width, text_width), nn.ReLU(), Linear(text_width, config.hidden_size)
        )
        size = config.num_scales * config.tokens_per_scale
        self.token_scales = nn.Parameter(
            torch.full((config.tokens_per_scale,), 1 / size), requires_grad=config.trainable_scales
        )

    @torch.no_grad()
    def init_weights(self) -> None:
        init.constant_(self.token_scales, 1 / (self.num_scales * self.tokens_per_scale))

    def forward(self, group_states: Tensor) -> Tensor:
        """group_states (K,G,C) of the tokens of K targets -> (K,L,D) an embedding for each scale."""
        projected = self.text_hidden_fcs(group_states).unflatten(1, (self.num_scales, self.tokens_per_scale))
        return (projected * self.token_scales[:, None].to(projected.dtype)).sum(2)


__all__ = ["TargetProjection", "TargetTokens", "TokenGroups", "find_token_groups"]
