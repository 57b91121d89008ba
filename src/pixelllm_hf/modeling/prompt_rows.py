"""The prompts of one `generate()` call, chunks of them for bounded memory, and which of them are equal."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from .vision_towers import VisionFeatures, valid_size_hw


@dataclass
class PromptRows:
    """R valid prompts of B images, image-major.

    boxes (B,N,4), points (B,N,K,2), point_labels (B,N,K) canvas pixels, mask (B,N) which of them exist, as in
    `get_visual_tokens`; input_ids, attention_mask (R,L); query_ids (R,T), whole answers, or decoder_input_ids (R,T),
    what they begin with. Or encoder_states (R,S,…) with the encoder's mask (R,S) as attention_mask, in the place of
    images and prompts.
    """

    image_features: VisionFeatures | None = None
    pixel_mask: Tensor | None = None
    boxes: Tensor | None = None
    points: Tensor | None = None
    point_labels: Tensor | None = None
    mask: Tensor | None = None
    input_ids: Tensor | None = None
    attention_mask: Tensor | None = None
    query_ids: Tensor | None = None
    decoder_input_ids: Tensor | None = None
    encoder_states: Tensor | None = None
    number: int = field(init=False)

    def __post_init__(self) -> None:
        states = self.encoder_states
        self.number = int(self.prompt_mask.sum()) if states is None else len(states)
        for name in ("input_ids", "query_ids", "decoder_input_ids"):
            rows = getattr(self, name)
            if rows is not None and self.number:  # no prompts at all are refused later, or were detected
                check_rows(len(rows), self.number, name)

    def __len__(self) -> int:
        return self.number

    @property
    def prompt_mask(self) -> Tensor:
        """Which prompts exist, (B,N); without any the whole of each image is its one prompt."""
        if self.mask is not None:
            return self.mask.bool()
        assert self.image_features is not None and self.image_features.fused is not None
        fused = self.image_features.fused
        given = self.boxes if self.boxes is not None else self.points
        prompts = 1 if given is None else given.shape[1]
        return torch.ones(len(fused), prompts, dtype=torch.bool, device=fused.device)

    def chunks(self, size: int) -> Iterator[PromptRows]:
        """The same rows, `size` at a time, with no other images than theirs."""
        for start in range(0, self.number, size):
            yield self._rows(start, min(start + size, self.number))

    def _rows(self, start: int, stop: int) -> PromptRows:
        text = {
            name: None if value is None else value[start:stop]
            for name in ("input_ids", "attention_mask", "query_ids", "decoder_input_ids", "encoder_states")
            for value in [getattr(self, name)]
        }
        if self.encoder_states is not None:
            return replace(self, **text)
        whole = self.prompt_mask
        chosen = whole.nonzero()[start:stop]
        images = slice(int(chosen[0, 0]), int(chosen[-1, 0]) + 1)
        mask = torch.zeros_like(whole)
        mask[chosen[:, 0], chosen[:, 1]] = True
        assert self.image_features is not None
        features = self.image_features.of_images(images)
        places = {
            name: None if value is None else value[images]
            for name in ("pixel_mask", "boxes", "points", "point_labels")
            for value in [getattr(self, name)]
        }
        return PromptRows(image_features=features, mask=mask[images], **places, **text)


def check_rows(given: int, prompts: int, name: str = "input_ids") -> None:
    """Raise unless there is one row of text for each valid prompt."""
    if given != prompts:
        raise ValueError(
            f"{name} must have one row per valid prompt, image after image, but there are {prompts} prompts and "
            f"{given} rows. Repeat the text for every prompt of its image."
        )


def check_prompts(images: int, boxes: Tensor, points: Tensor | None, point_labels: Tensor | None, mask: Tensor) -> None:
    """Raise unless these are prompts of so many images: boxes (B,N,4), points (B,N,K,2), labels (B,N,K), mask (B,N)."""
    number = boxes.shape[1] if boxes.ndim > 1 else 0
    most = points.shape[2] if points is not None and points.ndim == 4 else 0
    given: dict[str, tuple[Tensor | None, tuple[int, ...]]] = {
        "prompt_boxes": (boxes, (images, number, 4)),
        "prompt_points": (points, (images, number, most, 2)),
        "prompt_point_labels": (point_labels, (images, number, most)),
        "prompt_mask": (mask, (images, number)),
    }
    for name, (value, expected) in given.items():
        if value is not None and tuple(value.shape) != expected:
            raise ValueError(
                f"{name} must have the shape {expected}, images and prompts first, but it is {tuple(value.shape)}. The "
                "processor makes prompts of any boxes and points."
            )


def check_text_mask(input_ids: Tensor, attention_mask: Tensor | None) -> None:
    """Raise unless the mask, if there is one, says of each token whether it counts."""
    if attention_mask is not None and attention_mask.shape != input_ids.shape:
        raise ValueError(
            f"attention_mask must have the shape of input_ids, {tuple(input_ids.shape)}, but it has "
            f"{tuple(attention_mask.shape)}."
        )


def check_ids(ids: Tensor | None, name: str, vocabulary: int) -> None:
    """Raise unless these, if any, are token ids (rows, tokens) of a vocabulary of this size."""
    if ids is None:
        return
    if not isinstance(ids, Tensor) or ids.ndim != 2 or ids.is_floating_point() or ids.is_complex():
        came = f"{ids.dtype} {tuple(ids.shape)}" if isinstance(ids, Tensor) else f"a {type(ids).__name__}"
        raise ValueError(f"{name} must be a tensor of token ids, int64 (rows, tokens), but it is {came}.")
    if ids.numel() and (int(ids.min()) < 0 or int(ids.max()) >= vocabulary):
        raise ValueError(
            f"{name} must hold ids of 0..{vocabulary - 1}, but they go from {int(ids.min())} to {int(ids.max())}. Pad "
            "with the tokenizer's padding, and let the model's own tokenizer make them."
        )


def distinct_prompts(prompt_boxes: Tensor, prompt_mask: Tensor) -> tuple[Tensor, Tensor]:
    """boxes (B,N,4), mask (B,N) -> mask (B,N) that keeps the first of equal ones, rows (R,).

    rows[r] is the place, among the kept prompts (image-major), of valid prompt r's first equal. Captions and referring
    expressions ask about the whole image, many times the same place; while training, extracting it once saves about a
    third of a step. The answers are the same.
    """
    equal = (prompt_boxes[:, :, None] == prompt_boxes[:, None]).all(-1) & prompt_mask[:, None]  # B,N,N
    first = equal.int().argmax(dim=-1)  # B,N: the first valid prompt with the same box
    kept = prompt_mask & (first == torch.arange(first.shape[1], device=first.device))
    place = kept.flatten().cumsum(0).view_as(kept) - 1
    return kept, place.gather(1, first)[prompt_mask]


def whole_image_boxes(pixel_mask: Tensor | None, fused: Tensor, side: int) -> Tensor:
    """The prompt of a whole image: its unpadded extent on the canvas, (B,1,4)."""
    boxes = torch.zeros(fused.shape[0], 1, 4, device=fused.device)
    boxes[:, 0, 2:] = float(side) if pixel_mask is None else valid_size_hw(pixel_mask).flip(-1).float()
    return boxes


__all__ = [
    "PromptRows",
    "check_ids",
    "check_prompts",
    "check_rows",
    "check_text_mask",
    "distinct_prompts",
    "whole_image_boxes",
]
