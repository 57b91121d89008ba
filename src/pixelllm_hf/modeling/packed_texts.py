"""Several texts in one decoder row, each blind to the others."""

from __future__ import annotations

import torch
from torch import Tensor

from .losses import IGNORE_INDEX


def packed_texts(labels: Tensor, segments: Tensor, *, start: int, padding: int) -> tuple[Tensor, Tensor]:
    """labels and segments (R,T) -> tokens that the decoder consumes (R,T), and which of them see which (R,1,T,T) bool.

    A text of n labels is consumed as the start token and its first n - 1 labels. The state that has consumed a label is
    the next one of the row, and the last label of a text has none.
    """
    first = torch.ones_like(segments, dtype=torch.bool)
    first[:, 1:] = segments[:, 1:] != segments[:, :-1]
    before = torch.nn.functional.pad(labels[:, :-1], (1, 0), value=start)
    tokens = before.masked_fill(before == IGNORE_INDEX, padding).masked_fill(first, start)
    causal = torch.ones(labels.shape[1], labels.shape[1], dtype=torch.bool, device=labels.device).tril()
    return tokens, ((segments[:, :, None] == segments[:, None, :]) & causal)[:, None]


__all__ = ["packed_texts"]
