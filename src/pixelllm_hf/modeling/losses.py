"""The losses of the reference, each over its valid entries only (spec section 10)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from .box_ops import is_one_of

NOT_COUNTED = -100


def text_loss(
    logits: Tensor,
    tokens: Tensor,
    row_mask: Tensor | None = None,
    *,
    label_smoothing: float,
    eos_token_id: int | list[int] | None,
) -> Tensor:
    """`label_loss` of the next token: logits (…,T,V), tokens (…,T) as the decoder consumes them."""
    # Shifting the targets and not the logits spares a copy of the logits; the last position predicts nothing.
    targets = F.pad(tokens[..., 1:], (0, 1))
    return label_loss(logits, targets, row_mask, label_smoothing=label_smoothing, eos_token_id=eos_token_id)


def label_loss(
    logits: Tensor,
    labels: Tensor,
    row_mask: Tensor | None = None,
    *,
    label_smoothing: float,
    eos_token_id: int | list[int] | None,
) -> Tensor:
    """Cross entropy of the label of each position, over labels that are not padding (<= 0) and whose row counts.

    logits (…,T,V), labels (…,T), row_mask (…) > 0 where a caption counts. A caption that begins with EOS is empty and
    does not count. Smoothing spreads over the V - 1 other tokens.
    """
    vocabulary = logits.shape[-1]
    targets = labels.long()
    valid = (targets > 0) & ~is_one_of(targets[..., :1], eos_token_id)
    if row_mask is not None:
        valid = valid & (row_mask[..., None] > 0)
    # torch spreads its smoothing over all V tokens, gold included; scaled up, the others get the same share.
    total = F.cross_entropy(
        logits.flatten(0, -2).float(),
        targets.masked_fill(~valid, NOT_COUNTED).flatten(),
        ignore_index=NOT_COUNTED,
        reduction="sum",
        label_smoothing=label_smoothing * vocabulary / (vocabulary - 1),
    )
    return total / (valid.sum() + 1e-8)


def point_loss(pred: Tensor, target: Tensor, token_mask: Tensor, kind: str = "l1_nonzero") -> Tensor:
    """Distance of predicted places in the frame they come in (canvas pixels), averaged over valid tokens.

    pred and target (…,T,P,2), token_mask (…,T). "l1" and "l2" average |difference| and its square over a token's
    numbers; "l1_nonzero" is "l1" over tokens whose target is neither all zero nor NaN, which mean "no place".
    A target (…,1,P,2), one place for a whole caption, serves all its tokens.
    """
    if kind not in ("l1", "l2", "l1_nonzero"):
        raise ValueError(f"the kind of a point loss must be l1, l2 or l1_nonzero, got {kind!r}. Use l1_nonzero.")
    pred, target = pred.float(), target.float()
    valid = token_mask.bool()
    if kind == "l1_nonzero":
        valid = valid & (target.square().sum((-2, -1)) > 0)
    # Filled, not multiplied: NaN targets where there is no place must not reach the gradient.
    difference = (pred - target).masked_fill(~valid[..., None, None], 0.0)
    error = (difference.square() if kind == "l2" else difference.abs()).mean((-2, -1))
    return error.sum() / valid.sum().clamp(min=1)
