"""Equal prompts of an image share one pass through the prompt feature extractor.

Captions and referring expressions ask about the whole image, many times the same place; while training, extracting it
once saves about a third of a step. The answers are the same.
"""

from __future__ import annotations

import torch
from torch import Tensor


def distinct_prompts(prompt_boxes: Tensor, prompt_mask: Tensor) -> tuple[Tensor, Tensor]:
    """boxes (B,N,4), mask (B,N) -> mask (B,N) that keeps the first of equal ones, rows (R,).

    rows[r] is the place, among the kept prompts (image-major), of valid prompt r's first equal.
    """
    equal = (prompt_boxes[:, :, None] == prompt_boxes[:, None]).all(-1) & prompt_mask[:, None]  # B,N,N
    first = equal.int().argmax(dim=-1)  # B,N: the first valid prompt with the same box
    kept = prompt_mask & (first == torch.arange(first.shape[1], device=first.device))
    place = kept.flatten().cumsum(0).view_as(kept) - 1
    return kept, place.gather(1, first)[prompt_mask]
