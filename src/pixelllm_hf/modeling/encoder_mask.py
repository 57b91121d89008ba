"""Which of the encoder's states count."""

from __future__ import annotations

import torch
from torch import Tensor


def full_encoder_mask(mask: Tensor | None, states: Tensor) -> Tensor:
    """Which encoder states (R,S,…) are valid, (R,S) bool; all of them without a mask.

    A mask of the text alone is extended by the visual tokens before it, which are always valid.
    """
    if mask is None:
        return torch.ones(states.shape[:2], dtype=torch.bool, device=states.device)
    missing = states.shape[1] - mask.shape[1]
    if missing == 0:
        return mask.bool()
    if missing < 0:
        raise ValueError(
            f"attention_mask covers {mask.shape[1]} positions but encoder_outputs has only {states.shape[1]}."
        )
    return torch.cat([mask.new_ones(mask.shape[0], missing), mask], dim=1).bool()


__all__ = ["full_encoder_mask"]
