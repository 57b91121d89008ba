"""The losses of the reference, each over its valid entries only (spec section 10)."""

from __future__ import annotations

import torch
from torch import Tensor


def text_loss(
    logits: Tensor, tokens: Tensor, row_mask: Tensor | None = None, *, label_smoothing: float, eos_token_id: int
) -> Tensor:
    """Cross entropy of the next token, over positions whose next token is not padding and whose row counts.

    logits (…,T,V), tokens (…,T) as the decoder consumes them, row_mask (…) > 0 where a caption counts. A caption
    that begins with EOS is empty and does not count. Smoothing spreads over the V - 1 other tokens.
    """
    logits, targets = logits[..., :-1, :].float(), tokens[..., 1:]
    valid = (targets > 0) & (targets[..., :1] != eos_token_id)
    if row_mask is not None:
        valid = valid & (row_mask[..., None] > 0)
    log_probs = logits.log_softmax(-1)
    other = label_smoothing / (logits.shape[-1] - 1)
    gold = log_probs.gather(-1, targets[..., None].long()).squeeze(-1)
    loss = -((1 - label_smoothing - other) * gold + other * log_probs.sum(-1))
    return (loss * valid).sum() / (valid.sum() + 1e-8)


def point_loss(pred: Tensor, target: Tensor, token_mask: Tensor, kind: str = "l1_nonzero") -> Tensor:
    """Distance of predicted places in the frame they come in (canvas pixels), averaged over valid tokens.

    pred and target (…,T,P,2), token_mask (…,T). "l1" and "l2" average |difference| and its square over a token's
    numbers; "l1_nonzero" is "l1" over tokens whose target is not all zero, which means "no place".
    """
    if kind not in ("l1", "l2", "l1_nonzero"):
        raise ValueError(f"the point loss is one of l1, l2 and l1_nonzero, but got {kind!r}.")
    difference = pred.float() - target.float()
    error = (difference.square() if kind == "l2" else difference.abs()).flatten(-2).mean(-1)
    valid = token_mask.bool()
    if kind == "l1_nonzero":
        valid = valid & (target.float().square().flatten(-2).sum(-1) > 0)
    return (error * valid).sum() / torch.clamp(valid.sum(), min=1)
