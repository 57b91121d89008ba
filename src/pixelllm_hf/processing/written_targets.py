"""Answers that point: groups of codebook tokens become targets with masks, and leave the text."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from .canvas_transform import CanvasTransform
from .grounded_targets import GroundedTarget, PartialAnswerWarning
from .mask_resizing import masks_on_image
from .prompt_sources import PromptSource, as_array, entry
from .target_phrases import target_phrases
from .word_spans import SpannedText, SpanReader

# Of all masks of one image, a byte each: 22 targets of an image of 12 megapixels, and two of the largest that is read.
MAX_MASK_PIXELS = 1 << 28


@dataclass(frozen=True)
class WrittenTargets:
    """Of the K complete targets in R answers: row (K,), positions (K,G) of their tokens, logits (K,h,w) over the
    canvas, scores (K,) or None, and incomplete (R,) rows with tokens of a target that is not whole."""

    row: np.ndarray
    positions: np.ndarray
    logits: torch.Tensor
    scores: np.ndarray | None
    incomplete: np.ndarray | None

    @classmethod
    def of(cls, outputs: Any) -> WrittenTargets | None:
        """What `generate` returned, if it can write targets: a PixelLM beside its text, a PixelLLM as `targets`."""
        nested = entry(outputs, "targets")
        outputs = outputs if nested is None else nested
        row, positions = (as_array(entry(outputs, name)) for name in ("row_of_target", "target_positions"))
        logits = entry(outputs, "mask_logits")
        if row is None:
            return None
        if positions is None or logits is None:
            raise ValueError(
                "targets need target_positions and mask_logits beside row_of_target. Pass the whole output of generate."
            )
        logits = torch.as_tensor(logits)
        if not len(row) == len(positions) == len(logits):
            raise ValueError(
                f"row_of_target, target_positions and mask_logits must be of the same targets, but there are "
                f"{len(row)}, {len(positions)} and {len(logits)}. Pass the output of generate as it is."
            )
        scores, incomplete = (as_array(entry(outputs, name)) for name in ("mask_scores", "incomplete"))
        return cls(row, positions, logits, scores, incomplete)

    def of_row(self, row: int) -> np.ndarray:
        """Indices of a row's targets, in the order they are written."""
        return np.flatnonzero(self.row == row)

    def warn_of_incomplete(self, row: int, text: str) -> None:
        """Say that an answer was cut within a target."""
        if self.incomplete is not None and self.incomplete[row]:
            warnings.warn(
                f"the answer {text[:80]!r} ends within a target or has tokens of one out of order, and that target has "
                "no mask. If the answer was cut off, ask with a larger max_new_tokens.",
                PartialAnswerWarning,
                stacklevel=3,
            )

    def on_images(self, sources: Sequence[PromptSource]) -> dict[int, np.ndarray | None]:
        """Mask (H,W) bool of every target in its image; None where all of an image would take too much memory."""
        masks: dict[int, np.ndarray | None] = {}
        for image in sorted({sources[row].image_index for row in self.row}):
            chosen = [target for target, row in enumerate(self.row) if sources[row].image_index == image]
            masks |= dict(zip(chosen, self._on_image(chosen, sources[self.row[chosen[0]]].transform), strict=True))
        return masks

    def _on_image(self, chosen: list[int], transform: CanvasTransform) -> list[np.ndarray | None]:
        width, height = transform.image_size_wh
        most = max(1, MAX_MASK_PIXELS // (width * height))
        if len(chosen) > most:
            warnings.warn(
                f"the masks of {len(chosen)} targets in an image of {width} x {height} pixels are more than fit into "
                f"memory: only the first {most} targets have one. Ask about a smaller copy of the image.",
                PartialAnswerWarning,
                stacklevel=4,
            )
        masks = masks_on_image(
            self.logits[torch.as_tensor(chosen[:most], device=self.logits.device)],
            canvas_size=transform.canvas,
            resized_size_hw=transform.resized_size_wh[::-1],
            image_size_hw=(height, width),
        )
        return [*masks.numpy(force=True), *[None] * (len(chosen) - most)]

    def grounded(
        self, row: int, spanned: SpannedText, masks: dict[int, np.ndarray | None]
    ) -> tuple[GroundedTarget, ...]:
        """The targets of a row with their phrases in its text; masks by the number of the target."""
        own = self.of_row(row)
        places = [spanned.token_spans[position][0] for position in self.positions[own, 0]]
        return tuple(
            GroundedTarget(
                start,
                end,
                mask=masks[target],
                mask_score=self._score(target, masks[target]),
            )
            for target, (start, end) in zip(own.tolist(), target_phrases(spanned.text, places), strict=True)
        )

    def _score(self, target: int, mask: np.ndarray | None) -> float | None:
        """That of the canvas; 0 where nothing of it is in the image, but at most in the padding beside it."""
        if self.scores is None:
            return None
        return float(self.scores[target]) if mask is None or mask.any() else 0.0


def read_without(reader: SpanReader, ids: Sequence[int], left_out: Collection[int]) -> SpannedText:
    """The text of the ids without some of them, which then have an empty span where they stood.

    Blanks around what was left out become one, or none before punctuation.
    """
    ids = [int(i) for i in ids]
    kept = [i for i, token in enumerate(ids) if token not in left_out]
    spanned = reader.read([ids[i] for i in kept])
    if len(kept) == len(ids):
        return spanned
    own = dict(zip(kept, spanned.token_spans, strict=True))
    cuts: dict[int, int] = {}  # where in the text something was left out
    end = 0
    for i in range(len(ids)):
        end = own[i][1] if i in own else cuts.setdefault(i, end)
    text, starts, ends = _single_blanks(spanned.text, set(cuts.values()))
    spans = [(starts[own[i][0]], ends[own[i][1]]) if i in own else (ends[cuts[i]],) * 2 for i in range(len(ids))]
    return SpannedText(text, [(min(start, end), end) for start, end in spans])


def _single_blanks(text: str, cuts: Collection[int]) -> tuple[str, list[int], list[int]]:
    """The text with one blank for several, none before punctuation, and one between words where it was cut; then for
    each place of it where what begins there, and what ends there, has gone."""
    kept: list[str] = []
    starts, ends = [], []
    for i, character in enumerate(text):
        ends.append(len(kept))
        if i in cuts and character.isalnum() and kept and kept[-1] != " ":
            kept.append(" ")
        starts.append(len(kept))
        following = text[i + 1 : i + 2]
        goes = character == " " and (not kept or kept[-1] == " " or following in ("", *" .,;:!?"))
        if not goes:
            kept.append(character)
    return "".join(kept), [*starts, len(kept)], [*ends, len(kept)]


__all__ = ["WrittenTargets", "read_without"]
