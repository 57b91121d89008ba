"""Referring localisation: one box per expression. The rules are in `evaluation.referring_precision`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from pixelllm_hf.evaluation.bootstrap import Estimate, ratio_of_sums
from pixelllm_hf.evaluation.images import Expression, ReferredImage
from pixelllm_hf.evaluation.ranking import ranking_auc
from pixelllm_hf.evaluation.referring_precision import THRESHOLDS, VARIANT, referring_precision
from pixelllm_hf.evaluation.row_images import read_referred
from pixelllm_hf.evaluation.scene_folder import DataFolder
from pixelllm_hf.evaluation.tasks.task import EvalSettings, Scores, Task
from pixelllm_hf.processing.grounded_results import GroundedCaption

BUSY = 5


class ReferTask(Task):
    """All expressions of an image in one call, so that the image is encoded once."""

    name = "refer"
    logged_metrics = {"P@0.5": "refer_p50", "P@0.5_distractor": "refer_p50_distractor", "mean_IoU": "refer_mean_iou"}

    def read(self, data: DataFolder) -> list[ReferredImage]:
        return read_referred(data)

    def ask(self, images: Sequence[ReferredImage]) -> dict[str, Any]:
        return {"text": [[expression.text for expression in image.expressions] for image in images]}

    def record(self, image: ReferredImage, answers: Sequence[GroundedCaption]) -> dict[str, Any]:
        return {"answers": [answer_of(e, answer) for e, answer in zip(image.expressions, answers, strict=True)]}

    def score(
        self, images: Sequence[ReferredImage], records: Sequence[dict[str, Any]], settings: EvalSettings
    ) -> Scores:
        result = referring_precision(
            [answer for record in records for answer in record["answers"]], annotations_of(images)
        )
        by_id = dict(zip(result.ids, result.ious, strict=True))
        metrics = {}
        for suffix, belongs in subsets(images).items():
            ious = [np.array([by_id[e.id] for e in p.expressions if belongs(e)]) for p in images]
            counted = np.array([len(row) for row in ious])
            for t in (0.5,) if suffix else THRESHOLDS:
                hits = np.array([(row > t).sum() for row in ious])
                metrics[f"P@{t:g}{suffix}"] = ratio_of_sums(hits, counted, resamples=settings.resamples)
            sums = np.array([row.sum() for row in ious])
            metrics[f"mean_IoU{suffix}"] = ratio_of_sums(sums, counted, resamples=settings.resamples)
        metrics |= box_score_auc(records, by_id, resamples=settings.resamples)
        return Scores(metrics, expression_counts(images, records), (VARIANT,))


def box_score_auc(
    records: Sequence[dict[str, Any]], ious: Mapping[Any, float], *, resamples: int
) -> dict[str, Estimate]:
    """How the boxes' own scores rank right boxes, of an IoU above 0.5, and wrong ones; nothing where none has one."""
    scored = [[a for a in record["answers"] if a["score"] is not None] for record in records]
    estimate = ranking_auc(
        [[a["score"] for a in row] for row in scored],
        [[bool(ious[a["id"]] > 0.5) for a in row] for row in scored],
        resamples=resamples,
    )
    return {} if estimate is None else {"box_score_AUC": estimate}


def subsets(images: Sequence[ReferredImage]) -> dict[str, Callable[[Expression], bool]]:
    """Suffix of a metric's name -> the expressions that it is over, as far as something is known of them.

    A distractor is of the expression's own class: "the red car" beside another car needs its colour, size or place.
    Busy images have `BUSY` objects or more that are referred to.
    """
    listed = [e for image in images for e in image.expressions]
    busy = {e.id for p in images if len({e.box for e in p.expressions}) >= BUSY for e in p.expressions}
    found: dict[str, Callable[[Expression], bool]] = {"": lambda e: True}
    if any(e.has_distractor is not None for e in listed):
        found |= {"_distractor": lambda e: e.has_distractor is True, "_alone": lambda e: e.has_distractor is False}
    if any(e.is_seen_class is not None for e in listed):
        found["_trained_name"] = lambda e: e.is_seen_class is True
    if 0 < len(busy) < len(listed):
        found["_busy"] = lambda e: e.id in busy
    return found


def answer_of(expression: Expression, answer: GroundedCaption) -> dict[str, Any]:
    """The box of an expression, xywh; one of no size where the model gave none, which then counts as a miss."""
    x0, y0, x1, y1 = answer.box or (0.0, 0.0, 0.0, 0.0)
    return {"id": expression.id, "text": expression.text, "bbox": [x0, y0, x1 - x0, y1 - y0], "score": answer.box_score}


def annotations_of(images: Sequence[ReferredImage]) -> list[dict[str, Any]]:
    """The expressions as the metrics take them."""
    return [
        {"id": e.id, "image_id": image.image_id, "bbox": list(e.box), "segmentation": e.segmentation}
        for image in images
        for e in image.expressions
    ]


def expression_counts(images: Sequence[ReferredImage], records: Sequence[dict[str, Any]]) -> dict[str, int]:
    """How many expressions there are, how many need more than the class, and how many got no box."""
    listed = [e for image in images for e in image.expressions]
    boxes = [answer["bbox"] for record in records for answer in record["answers"]]
    counts = {"expressions": len(listed)}
    if any(e.has_distractor is not None for e in listed):
        counts["expressions_with_distractor"] = sum(e.has_distractor is True for e in listed)
        counts["scenes_with_distractor"] = sum(any(e.has_distractor for e in image.expressions) for image in images)
    if any(e.is_seen_class is not None for e in listed):
        counts["expressions_with_trained_name"] = sum(e.is_seen_class is True for e in listed)
    return counts | {"without_box": sum(not any(box) for box in boxes)}
