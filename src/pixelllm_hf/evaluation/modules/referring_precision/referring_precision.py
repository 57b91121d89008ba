"""Referring localisation: the share of expressions whose box is found, as a module of `evaluate`."""

import datasets
import evaluate

from pixelllm_hf.evaluation.referring_precision import referring_precision

_BOX = datasets.List(datasets.Value("float64"), length=4)
_FEATURES = {"predictions": _BOX, "references": _BOX}


class ReferringPrecisionModule(evaluate.Metric):
    """One predicted and one annotated box per expression, xywh in original pixels."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=__doc__,
            citation="",
            inputs_description=type(self).__doc__,
            features=datasets.Features(_FEATURES),
        )

    def _compute(self, predictions, references):
        boxes, annotated = (
            [{"id": i, "bbox": box} for i, box in enumerate(side, 1)] for side in (predictions, references)
        )
        return referring_precision(boxes, annotated).to_dict()
