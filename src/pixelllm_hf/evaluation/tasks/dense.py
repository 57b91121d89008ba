"""Dense object captioning: everything in the image, each with a box, a caption and a score.

Average precision as in `evaluation.dense_captioning_map`; predictions rank by the score of the detection.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pixelllm_hf.evaluation.bootstrap import Estimate, resampled
from pixelllm_hf.evaluation.dense_captioning_map import (
    DETECTION_ONLY,
    IOU_THRESHOLDS,
    DenseCaptioningMap,
    dense_captioning_map,
)
from pixelllm_hf.evaluation.images import DescribedImage
from pixelllm_hf.evaluation.meteor import meteor
from pixelllm_hf.evaluation.row_images import read_described
from pixelllm_hf.evaluation.scene_folder import DataFolder
from pixelllm_hf.evaluation.tasks.task import EvalSettings, Scores, Task
from pixelllm_hf.processing.grounded_results import GroundedCaption


class DenseTask(Task):
    """No prompts: the model finds the places itself."""

    name = "dense"
    logged_metrics = {"mAP": "dense_map", "mAP_detection": "dense_map_detection"}

    def read(self, data: DataFolder) -> list[DescribedImage]:
        return read_described(data, "dense")

    def record(self, image: DescribedImage, answers: Sequence[GroundedCaption]) -> dict[str, Any]:
        rows = []
        for answer in answers:
            assert answer.box is not None, "every detection has one"
            x0, y0, x1, y1 = answer.box
            score = answer.score if answer.box_score is None else answer.box_score
            rows.append({"bbox": [x0, y0, x1 - x0, y1 - y0], "caption": answer.text, "score": score})
        return {"answers": rows}

    def score(
        self, images: Sequence[DescribedImage], records: Sequence[dict[str, Any]], settings: EvalSettings
    ) -> Scores:
        predictions = [{"image_id": i, **a} for i, record in enumerate(records) for a in record["answers"]]
        annotations = [
            {"image_id": i, "bbox": list(region.box), "caption": region.phrase}
            for i, image in enumerate(images)
            for region in image.regions
        ]

        def scorer(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> tuple[np.ndarray, str]:
            scored = meteor(candidates, references, variant=settings.meteor)
            return scored.samples, scored.variant

        result = dense_captioning_map(predictions, annotations, image_ids=range(len(images)), caption_scorer=scorer)
        counts = {"ground_truth": result.ground_truth_count, "detections": result.count}
        return Scores(_estimates(result, settings.resamples), counts, (result.variant,))


def _estimates(result: DenseCaptioningMap, resamples: int) -> dict[str, Estimate]:
    def numbers(result: DenseCaptioningMap) -> dict[str, float]:
        boxes = {f"AP_detection@{iou:g}": result.cells[iou, DETECTION_ONLY] for iou in IOU_THRESHOLDS}
        return {"mAP": result.map, "mAP_detection": result.map_detection, **boxes}

    return resampled(
        numbers(result),
        lambda weights: list(numbers(result.redrawn(weights)).values()),
        result.images,
        count=result.ground_truth_count,
        resamples=resamples,
    )
