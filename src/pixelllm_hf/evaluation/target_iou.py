"""gIoU and cIoU of answers with several targets: MUSE, multi-referring, ReasonSeg.

Source: PixelLM (arXiv 2312.02228) and the released meters, whose defects are kept behind `released`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pixelllm_hf.evaluation.mask_matching import match_masks

IGNORED = 255  # pixels of an annotation that count on neither side
FEW = 3  # targets of a question; more are many, as MUSE's test files are divided
_IOU_EPSILON, _CIOU_EPSILON, _MEAN_EPSILON = 1e-5, 1e-10, 1e-5


@dataclass
class TargetIoU:
    """Adds up images; `giou` is the mean IoU of targets, `ciou` the sum of intersections over that of unions.

    Each target is scored by the IoU of its mask (1 where both are empty); an annotated target that was not predicted
    and a predicted one that is not annotated score against an empty mask. `by_count` holds the same sums for questions
    with few (up to 3) and many targets; `empty_right` of `empty_asked` questions without a target were answered so.
    """

    ious: float = 0.0
    targets: int = 0
    intersection: float = 0.0
    union: float = 0.0
    questions: int = 0
    right_number: int = 0
    empty_asked: int = 0
    empty_right: int = 0
    by_count: dict[str, TargetIoU] = field(default_factory=dict)

    @property
    def giou(self) -> float:
        return self.ious / (self.targets + _MEAN_EPSILON) if self.targets else float("nan")

    @property
    def ciou(self) -> float:
        return self.intersection / (self.union + _CIOU_EPSILON) if self.targets else float("nan")

    def add_question(self, logits: Tensor, masks: Tensor, *, matched: bool = False, released: bool = False) -> None:
        """A question's predicted logits (P,H,W) and annotated masks (G,H,W), of 0, 1 and 255 for ignored pixels.

        matched: masks are in the order of the annotations, as in referring, and are not paired anew. released: take
        unmatched predictions as raw logits, as the released meter does; a confident false positive then scores 1.
        """
        counts = question_counts(logits, masks, matched=matched, released=released)
        sides = [self]
        if len(masks):
            sides.append(self.by_count.setdefault("few" if len(masks) <= FEW else "many", TargetIoU()))
        for side in sides:
            side.questions += 1
            side.right_number += len(logits) == len(masks)
            side.empty_asked += not len(masks)
            side.empty_right += not len(masks) and not len(logits)
            intersection, union = counts.unbind(1)
            side.ious += float(iou_of(intersection, union).sum())
            side.targets += len(counts)
            side.intersection += float(intersection.sum())
            side.union += float(union.sum())

    def to_dict(self) -> dict[str, Any]:
        """Numbers for a table; NaN where nothing was asked."""
        table = {"gIoU": self.giou, "cIoU": self.ciou, "questions": self.questions, "targets": self.targets}
        for name, side in sorted(self.by_count.items()):
            table |= {f"gIoU_{name}": side.giou, f"cIoU_{name}": side.ciou}
        table["right_number"] = self.right_number / self.questions if self.questions else float("nan")
        table["empty_accuracy"] = self.empty_right / self.empty_asked if self.empty_asked else float("nan")
        return table


def question_counts(logits: Tensor, masks: Tensor, *, matched: bool = False, released: bool = False) -> Tensor:
    """(T,2): intersection and union of every target of a question, in pixels inside; arguments as of `add_question`."""
    pairs = paired_targets(logits, masks, matched=matched, released=released)
    counts = [intersection_and_union(ours, truth)[:, 1] for ours, truth in pairs]
    return torch.stack(counts) if counts else torch.zeros(0, 2, dtype=torch.float64)


def paired_targets(
    logits: Tensor, masks: Tensor, *, matched: bool = False, released: bool = False
) -> list[tuple[Tensor, Tensor]]:
    """Predicted masks (H,W) of 0 and 1 beside the annotated ones (H,W) they are scored against."""
    found = (logits > 0).float()
    if matched and len(logits) != len(masks):
        raise ValueError(
            f"matched masks come one for each of the {len(masks)} annotations, but there are {len(logits)}. Add empty "
            "masks for targets that were not found, or let them be matched."
        )
    if matched:
        ours = theirs = np.arange(len(masks))
    elif len(logits) and len(masks):
        matching = match_masks(logits, (masks == 1).float())
        ours, theirs = matching.predicted, matching.annotated
    else:
        ours = theirs = np.arange(0)
    pairs = [(found[i], masks[j]) for i, j in zip(ours, theirs, strict=True)]
    pairs += [(torch.zeros_like(masks[j]), masks[j]) for j in range(len(masks)) if j not in set(theirs.tolist())]
    unmatched = [i for i in range(len(logits)) if i not in set(ours.tolist())]
    return pairs + [(logits[i] if released else found[i], torch.zeros_like(logits[i])) for i in unmatched]


def intersection_and_union(ours: Tensor, truth: Tensor) -> Tensor:
    """ours (H,W) and truth (H,W) of 0, 1 and 255 -> (2,2): intersection and union of background and foreground.

    Counts as the released meter does: what is no class falls out of its histogram, and of two bins over 0..1 the upper
    one begins at one half. For masks of 0 and 1 that is plain counting.
    """
    keep = truth != IGNORED
    ours, truth = ours[keep], truth[keep]
    area_ours, area_truth, both = (_histogram(values) for values in (ours, truth, ours[ours == truth]))
    return torch.stack([both, area_ours + area_truth - both])


def iou_of(intersection: Tensor, union: Tensor) -> Tensor:
    """The IoU of each target, 1 where both sides are empty."""
    return intersection / (union + _IOU_EPSILON) + (union == 0)


def _histogram(values: Tensor) -> Tensor:
    return torch.histc(values.double(), bins=2, min=0, max=1)


def giou_of_images(questions: Sequence[Sequence[tuple[int, int]]], ious: Sequence[float]) -> float:
    """The released gIoU: the IoUs of all pairs over the sum of max(predicted, annotated) of each IMAGE.

    questions: for each image (predicted, annotated) of its questions. Where one question of an image predicts too many
    and another too few, the denominator is smaller than the number of pairs: `TargetIoU.giou` divides by the pairs.
    """
    slots = sum(max(sum(p for p, _ in image), sum(a for _, a in image)) for image in questions)
    return sum(ious) / (slots + _MEAN_EPSILON)


__all__ = [
    "FEW",
    "IGNORED",
    "TargetIoU",
    "giou_of_images",
    "intersection_and_union",
    "iou_of",
    "paired_targets",
    "question_counts",
]
