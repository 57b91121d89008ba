"""Referring localisation: the share of expressions whose box is found, as a module of `evaluate`."""

import datasets

from pixelllm_hf.evaluation.modules import declared_metric
from pixelllm_hf.evaluation.referring_precision import referring_precision

_BOX = datasets.List(datasets.Value("float64"), length=4)
_FEATURES = {"predictions": _BOX, "references": _BOX}


class ReferringPrecisionModule(declared_metric.DeclaredMetric):
    """One predicted and one annotated box per expression, xywh in original pixels."""

    columns = _FEATURES

    def _compute(self, predictions, references):
        boxes, annotated = (
            [{"id": i, "bbox": box} for i, box in enumerate(side, 1)] for side in (predictions, references)
        )
        return referring_precision(boxes, annotated).to_dict()
