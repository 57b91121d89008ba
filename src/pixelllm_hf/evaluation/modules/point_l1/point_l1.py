"""Trace error of teacher-forced captions, per image, as a module of `evaluate`."""

import datasets
import numpy as np

from pixelllm_hf.evaluation.modules import declared_metric
from pixelllm_hf.evaluation.point_l1 import point_l1

_POINTS = datasets.List(datasets.List(datasets.List(datasets.List(datasets.Value("float64"), length=2))))
_FEATURES = {
    "predictions": _POINTS,
    "references": {
        "points": _POINTS,
        "token_mask": datasets.List(datasets.List(datasets.Value("bool"))),
        "size_wh": datasets.List(datasets.Value("float64"), length=2),
    },
}


class PointL1Module(declared_metric.DeclaredMetric):
    """Per image the points (captions, tokens, points, 2) in pixels, with the token mask and the image's size.

    The mean over images; one without a traced token counts as 0, as in the reference.
    """

    columns = _FEATURES

    def _compute(self, predictions, references):
        values = [
            point_l1(
                np.array(points), np.array(image["points"]), np.array(image["token_mask"]), tuple(image["size_wh"])
            )
            for points, image in zip(predictions, references, strict=True)
        ]
        return {"point_l1": float(np.mean(values)), "count": len(values), "variant": "teacher-forced, mean over images"}
