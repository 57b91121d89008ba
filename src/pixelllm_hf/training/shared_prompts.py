"""Equal prompts of an image share one pass through the prompt feature extractor.

Captions and referring expressions ask about the whole image, eight times the same place: extracting it once saves
about a third of a training step. The answers are the same.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, nn


def share_equal_prompts(model: nn.Module) -> None:
    """Make `model.get_visual_tokens` extract each distinct box of an image once; point prompts are left as they are."""
    extract: Any = model.get_visual_tokens

    @functools.wraps(extract)
    def get_visual_tokens(
        image_features: Any,
        pixel_mask: Tensor | None = None,
        prompt_boxes: Tensor | None = None,
        prompt_points: Tensor | None = None,
        prompt_point_labels: Tensor | None = None,
        prompt_mask: Tensor | None = None,
    ) -> Tensor:
        if prompt_boxes is None or prompt_points is not None or prompt_boxes.shape[1] == 1:
            return extract(image_features, pixel_mask, prompt_boxes, prompt_points, prompt_point_labels, prompt_mask)
        kept, rows = distinct_prompts(prompt_boxes, prompt_mask)
        tokens = extract(image_features, pixel_mask, prompt_boxes, None, None, kept)
        return tokens if len(tokens) == len(rows) else tokens.index_select(0, rows)

    model.get_visual_tokens = get_visual_tokens  # type: ignore[assignment]


def distinct_prompts(prompt_boxes: Tensor, prompt_mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """boxes (B,N,4), mask (B,N) -> mask (B,N) that keeps the first of equal ones, rows (R,).

    rows[r] is the place, among the kept prompts (image-major), of valid prompt r's first equal.
    """
    if prompt_mask is None:
        prompt_mask = torch.ones(prompt_boxes.shape[:2], dtype=torch.bool, device=prompt_boxes.device)
    equal = (prompt_boxes[:, :, None] == prompt_boxes[:, None]).all(-1) & prompt_mask[:, None]  # B,N,N
    first = equal.int().argmax(dim=-1)  # B,N: the first valid prompt with the same box
    kept = prompt_mask & (first == torch.arange(first.shape[1], device=first.device))
    place = kept.flatten().cumsum(0).view_as(kept) - 1
    return kept, place.gather(1, first)[prompt_mask]
