"""Average precision of named boxes at one IoU, as COCO's evaluation counts it: AP50 of the 80 categories.

For each category detections of all images are taken by descending score. Each is matched with the box of that category
in its image that it overlaps most among those still free, if the IoU is at least the threshold; a detection that
overlaps a crowd instead counts neither way, and overlaps a crowd by its own area. Precision is made monotone and
averaged over 101 recalls; the result is the mean over the categories that are annotated anywhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pixelllm_hf.evaluation.box_iou import box_iou_matrix

THRESHOLD = 0.5
_RECALLS = np.linspace(0, 1, 101)


@dataclass(frozen=True)
class NamedBox:
    """box xywh in pixels. score: of a detection. crowd: an annotation that stands for several objects."""

    name: str
    box: tuple[float, float, float, float]
    score: float = 1.0
    crowd: bool = False


@dataclass(frozen=True)
class AveragePrecision:
    """`of` each category, and what is needed to compute it again for redrawn images.

    records: category -> images (D,) and hits (D,) of its detections, the best first. annotated: category -> number of
    boxes in each image (I,).
    """

    records: Mapping[str, tuple[np.ndarray, np.ndarray]]
    annotated: Mapping[str, np.ndarray]

    @property
    def value(self) -> float:
        """The mean over categories; NaN without an annotated box."""
        return self.redrawn(None)

    def redrawn(self, weights: np.ndarray | None) -> float:
        """The value where image i came weights[i] times; weights (I,), None for once each."""
        values = [self.of(category, weights) for category in self.annotated]
        known = [value for value in values if not np.isnan(value)]
        return float(np.mean(known)) if known else float("nan")

    def of(self, category: str, weights: np.ndarray | None = None) -> float:
        """AP of one category; NaN if none of it is annotated."""
        numbers = self.annotated[category]
        total = numbers.sum() if weights is None else numbers @ weights
        if not total:
            return float("nan")
        images, hits = self.records[category]
        often = np.ones(len(images)) if weights is None else weights[images].astype(np.float64)
        found = np.cumsum(hits * often)
        taken = np.cumsum(often)
        precision = np.divide(found, taken, out=np.zeros(len(found)), where=taken > 0)
        precision = np.maximum.accumulate(precision[::-1])[::-1]
        # Recall is compared as COCO does, a rounding error below the step still reaching it.
        at = np.searchsorted(found / total + 1e-12, _RECALLS)
        return float(np.append(precision, 0.0)[at].mean())


def average_precision(
    detections: Sequence[Sequence[NamedBox]], annotations: Sequence[Sequence[NamedBox]], *, threshold: float = THRESHOLD
) -> AveragePrecision:
    """detections and annotations: of each image, in parallel.

    >>> box = NamedBox("dog", (0, 0, 10, 10))
    >>> average_precision([[box], []], [[box], [box]]).value.__round__(2)
    0.5
    """
    categories = sorted({thing.name for image in annotations for thing in image if not thing.crowd})
    records, annotated = {}, {}
    for category in categories:
        images, scores, hits = [], [], []
        numbers = np.zeros(len(annotations), np.int64)
        for i, (found, known) in enumerate(zip(detections, annotations, strict=True)):
            mine = sorted((d for d in found if d.name == category), key=lambda d: -d.score)
            theirs = [a for a in known if a.name == category]
            numbers[i] = sum(not a.crowd for a in theirs)
            for detection, hit in zip(mine, _hits(mine, theirs, threshold), strict=True):
                if hit is not None:
                    images.append(i)
                    scores.append(detection.score)
                    hits.append(hit)
        order = np.argsort(-np.array(scores, np.float64), kind="stable")
        records[category] = np.array(images, np.int64)[order], np.array(hits, np.float64)[order]
        annotated[category] = numbers
    return AveragePrecision(records, annotated)


def _hits(detections: Sequence[NamedBox], annotations: Sequence[NamedBox], threshold: float) -> list[bool | None]:
    """Whether each detection of an image, the best first, is right; None if it lies in a crowd."""
    if not detections or not annotations:
        return [False] * len(detections)
    boxes = np.array([d.box for d in detections], np.float64)
    singles = [a for a in annotations if not a.crowd]
    ious = box_iou_matrix(boxes, np.array([a.box for a in singles], np.float64).reshape(-1, 4))
    crowds = _share_inside(boxes, np.array([a.box for a in annotations if a.crowd], np.float64).reshape(-1, 4))
    free = np.ones(len(singles), bool)
    hits: list[bool | None] = []
    for row, inside in zip(ious, crowds, strict=True):
        allowed = np.where(free, row, -1.0)
        best = int(allowed.argmax()) if len(allowed) else -1
        if best >= 0 and allowed[best] >= threshold:
            free[best] = False
            hits.append(True)
        else:
            hits.append(None if (inside >= threshold).any() else False)
    return hits


def _share_inside(boxes: np.ndarray, crowds: np.ndarray) -> np.ndarray:
    """boxes (D,4) and crowds (K,4) xywh -> (D,K): the part of a box that lies in a crowd."""
    low = np.maximum(boxes[:, None, :2], crowds[None, :, :2])
    high = np.minimum(boxes[:, None, :2] + boxes[:, None, 2:], crowds[None, :, :2] + crowds[None, :, 2:])
    inside = np.clip(high - low, 0, None).prod(-1)
    areas = boxes[:, 2:].prod(-1)[:, None]
    return np.divide(inside, areas, out=np.zeros_like(inside), where=areas > 0)
