"""Referring segmentation: one mask per expression. The rules are in `evaluation.segmentation_iou`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np

from pixelllm_hf.evaluation.bootstrap import ratio_of_sums
from pixelllm_hf.evaluation.images import EvaluationDataError, ReferredImage
from pixelllm_hf.evaluation.row_images import read_referred
from pixelllm_hf.evaluation.scene_folder import DataFolder
from pixelllm_hf.evaluation.segmentation_iou import (
    THRESHOLDS,
    VARIANT,
    cumulative_iou,
    segmentation_iou,
)
from pixelllm_hf.evaluation.tasks.refer import ReferTask, annotations_of, answer_of, expression_counts, subsets
from pixelllm_hf.evaluation.tasks.task import EvalSettings, Scores
from pixelllm_hf.processing.grounded_results import GroundedCaption
from pixelllm_hf.processing.mask_codec import encode_rle, rle_area


class SegmentTask(ReferTask):
    """Asks what `refer` asks, and for masks."""

    name = "segment"
    also_scores: ClassVar[tuple[str, ...]] = ("refer",)
    logged_metrics = {"seg_cIoU": "segment_ciou", "seg_gIoU": "segment_giou"}

    def read(self, data: DataFolder) -> list[ReferredImage]:
        images = read_referred(data, "segment")
        for image in images:
            for e in image.expressions:
                if e.segmentation is None:
                    raise EvaluationDataError(
                        f"expression {e.text!r} of image {image.image_id} has no mask to compare with. "
                        "A prepared folder has masks if it was prepared with --task segment."
                    )
        return images

    def record(self, image: ReferredImage, answers: Sequence[GroundedCaption]) -> dict[str, Any]:
        rows = []
        for e, answer in zip(image.expressions, answers, strict=True):
            mask = np.zeros(image.size_hw, bool) if answer.mask is None else answer.mask
            rows.append({**answer_of(e, answer), "segmentation": encode_rle(mask), "mask_score": answer.mask_score})
        return {"answers": rows}

    def score(
        self, images: Sequence[ReferredImage], records: Sequence[dict[str, Any]], settings: EvalSettings
    ) -> Scores:
        result = segmentation_iou(
            [answer for record in records for answer in record["answers"]],
            annotations_of(images),
            image_sizes={image.image_id: image.size_hw for image in images},
        )
        place = {expression: i for i, expression in enumerate(result.ids)}
        metrics = {}
        for suffix, belongs in subsets(images).items():
            rows = [[place[e.id] for e in p.expressions if belongs(e)] for p in images]
            chosen = [i for row in rows for i in row]
            if not chosen:
                continue
            inter = np.array([result.intersections[row].sum() for row in rows])
            union = np.array([result.unions[row].sum() for row in rows])
            count = np.array([len(row) for row in rows])
            ciou = ratio_of_sums(inter, union, resamples=settings.resamples)
            value = cumulative_iou(result.intersections[chosen], result.unions[chosen])
            metrics[f"seg_cIoU{suffix}"] = replace(ciou, value=value, count=len(chosen))
            ious = result.intersections / (result.unions + 1e-5)
            sums = np.array([ious[row].sum() for row in rows])
            metrics[f"seg_gIoU{suffix}"] = ratio_of_sums(sums, count, resamples=settings.resamples)
            for t in (0.5,) if suffix else THRESHOLDS:
                hits = np.array([(ious[row] > t).sum() for row in rows])
                metrics[f"seg_P@{t:g}{suffix}"] = ratio_of_sums(hits, count, resamples=settings.resamples)
            if not suffix and result.box_ious is not None:
                hits = np.array([(result.box_ious[row] > 0.5).sum() for row in rows])
                metrics["seg_box_P@0.5"] = ratio_of_sums(hits, count, resamples=settings.resamples)
        counts = expression_counts(images, records)
        counts["empty_masks"] = sum(not rle_area(a["segmentation"]) for record in records for a in record["answers"])
        return Scores(metrics, counts, (VARIANT, "boxes: the tight box of the mask against the annotated box"))
