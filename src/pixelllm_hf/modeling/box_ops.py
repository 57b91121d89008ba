"""Boxes from points, and the tokens whose points make a box (official.md#points)."""

from __future__ import annotations

import torch
from torch import Tensor


def last_words(tokens: Tensor, eos: int | list[int] | None) -> Tensor:
    """The token before EOS, whose points make a referred object's box: tokens (R,T), the first BOS -> (R,T) bool.

    Nothing is selected in a row without EOS or without a word before it.

    >>> last_words(torch.tensor([[0, 7, 8, 1, 0], [0, 1, 0, 0, 0]]), 1).int().tolist()
    [[0, 0, 1, 0, 0], [0, 0, 0, 0, 0]]
    """
    ends = is_one_of(tokens, eos)
    ends[:, 0] = False  # BOS, whatever its id
    before_end = torch.cat([ends[:, 1:], torch.zeros_like(ends[:, :1])], dim=1) & ~ends
    before_end[:, 0] = False  # BOS has no location
    return before_end


def is_one_of(tokens: Tensor, ids: int | list[int] | None) -> Tensor:
    """tokens (…) -> (…) bool; an id of a config may be one, several or none."""
    known = [] if ids is None else [ids] if isinstance(ids, int) else list(ids)
    return torch.isin(tokens, torch.tensor(known, dtype=tokens.dtype, device=tokens.device))


def after_end(tokens: Tensor, eos: int | list[int] | None) -> Tensor:
    """Everything from EOS on: tokens (R,T), the first BOS -> (R,T) bool. BOS may have the id of EOS and is none.

    >>> after_end(torch.tensor([[1, 7, 1, 0]]), 1).int().tolist()
    [[0, 0, 1, 1]]
    """
    ends = is_one_of(tokens, eos)
    ends[:, 0] = False
    return ends.cumsum(1) > 0


def padded_after_end(tokens: Tensor, ended: Tensor, pad: int) -> Tensor:
    """tokens (R,T) and which stand from EOS on (R,T) bool -> tokens with padding behind the EOS of every row."""
    return tokens.masked_fill(ended & (ended.cumsum(1) > 1), pad)


def boxes_of_words(points: Tensor, keep: Tensor) -> Tensor:
    """`points_to_boxes` with NaN, and no box turned inside out, where a row keeps no point that is a number."""
    has_box = (keep[..., None] & points.isfinite().all(-1)).flatten(-2).any(-1, keepdim=True)
    return points_to_boxes(points, keep).masked_fill(~has_box, torch.nan)


def points_to_boxes(points: Tensor, keep: Tensor) -> Tensor:
    """Smallest box around the points of the kept tokens: points (…,T,P,2) xy, keep (…,T) bool -> (…,4) xyxy.

    Frame unchanged; points that are not numbers (`generate` gives BOS, EOS and padding no location) are left out.
    A row that keeps nothing gives a box turned inside out, as in the reference.

    >>> points_to_boxes(torch.tensor([[[3.0, 4.0]], [[1.0, 6.0]]]), torch.tensor([True, True])).tolist()
    [1.0, 4.0, 3.0, 6.0]
    """
    flat = points.flatten(-3, -2)
    known = flat.isfinite().all(-1, keepdim=True)
    keep = keep.bool().repeat_interleave(points.shape[-2], dim=-1)[..., None] & known
    flat = flat.where(known, 0.0)
    low = flat.where(keep, flat.amax(-2, keepdim=True) + 1).amin(-2)
    high = flat.where(keep, flat.amin(-2, keepdim=True) - 1).amax(-2)
    return torch.cat([low, high], dim=-1)
