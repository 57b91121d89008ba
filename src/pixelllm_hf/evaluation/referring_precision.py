"""Referring localisation: the share of expressions whose box is found (`box_Precision@1`, P@0.5 of the papers)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pixelllm_hf.evaluation.box_iou import aligned_box_iou
from pixelllm_hf.evaluation.metric_inputs import MetricInputError, boxes_array, field

VARIANT = "one box per expression, IoU > t, mean over predicted expressions"
THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9)


@dataclass(frozen=True)
class ReferringPrecision:
    """`precision[t]` is the share of `ious` above t, NaN when nothing was predicted; `ids` and `ious` run in parallel.

    `skipped` annotations have no prediction. As in the official evaluation they do not count as misses.
    """

    precision: dict[float, float]
    mean_iou: float
    ids: tuple[Any, ...]
    ious: np.ndarray
    count: int
    skipped: int
    variant: str = VARIANT

    def to_dict(self) -> dict[str, Any]:
        """Numbers for a table; official name for the one at 0.5."""
        named = {f"box_Precision@{t:g}": value for t, value in self.precision.items() if t != 0.5}
        official = {"box_Precision@1": self.precision[0.5]} if 0.5 in self.precision else {}
        shared = {"box_mean_IoU": self.mean_iou, "count": self.count, "skipped": self.skipped, "variant": self.variant}
        return {**official, **named, **shared}


def referring_precision(
    predictions: Sequence[Mapping[str, Any]],
    annotations: Sequence[Mapping[str, Any]],
    *,
    thresholds: Sequence[float] = THRESHOLDS,
) -> ReferringPrecision:
    """Compare one box per expression with its annotation.

    Both are records with `id` (of the expression) and `bbox` xywh in original pixels. A hit needs IoU strictly above
    the threshold; the union carries 1e-6, so exactly half never hits. Ids of 0 and below are padding. An id predicted
    twice counts with its last box. Predictions for unknown expressions raise `MetricInputError`.

    >>> boxes = [{"id": 1, "bbox": [0, 0, 10, 10]}, {"id": 2, "bbox": [0, 0, 10, 10]}]
    >>> referring_precision(boxes, [boxes[0], {"id": 2, "bbox": [9, 9, 10, 10]}]).precision[0.5]
    0.5
    """
    pairs = paired_by_id(predictions, annotations)
    predicted = boxes_array([field(p, "bbox", "prediction") for p, _ in pairs.values()], "predicted boxes")
    annotated = boxes_array([field(a, "bbox", "annotation") for _, a in pairs.values()], "annotated boxes")
    ious = aligned_box_iou(predicted, annotated, epsilon=1e-6)
    return ReferringPrecision(
        precision={float(t): share_above(ious, t) for t in thresholds},
        mean_iou=float(ious.mean()) if len(ious) else float("nan"),
        ids=tuple(pairs),
        ious=ious,
        count=len(ious),
        skipped=len({a["id"] for a in annotations if a["id"] > 0}) - len(ious),
    )


def share_above(values: np.ndarray, threshold: float) -> float:
    """Share of values strictly above the threshold; NaN of none."""
    return float((values > threshold).mean()) if len(values) else float("nan")


def paired_by_id(
    predictions: Sequence[Mapping[str, Any]], annotations: Sequence[Mapping[str, Any]]
) -> dict[Any, tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """id -> (prediction, annotation) of every predicted expression, in that order; of several the last one counts."""
    annotated = {field(a, "id", "annotation"): a for a in annotations}
    pairs: dict[Any, tuple[Mapping[str, Any], Mapping[str, Any]]] = {}
    for prediction in predictions:
        expression = field(prediction, "id", "prediction")
        if expression <= 0:
            continue
        if expression not in annotated:
            raise MetricInputError(
                f"expression {expression!r} is predicted but not annotated; predictions and annotations must be of "
                "the same split."
            )
        pairs[expression] = (prediction, annotated[expression])
    return pairs
