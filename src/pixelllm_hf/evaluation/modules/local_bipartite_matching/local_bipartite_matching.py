"""Local Bipartite Matching of traces, as a module of `evaluate`."""

import datasets
import numpy as np

from pixelllm_hf.evaluation.local_bipartite_matching import local_bipartite_matching
from pixelllm_hf.evaluation.modules import declared_metric

_FEATURES = {
    "predictions": datasets.List(datasets.List(datasets.Value("float64"), length=4)),
    "references": datasets.List(datasets.List(datasets.Value("float64"), length=5)),
}


class LocalBipartiteMatchingModule(declared_metric.DeclaredMetric):
    """Per sample the rows of a trace, xyxy in fractions of the image, one per word; references add the area.

    `windows` are the values of k to report.
    """

    columns = _FEATURES

    def _compute(self, predictions, references, windows=(0, 1)):
        predicted, given = ([np.asarray(trace) for trace in side] for side in (predictions, references))
        results = [local_bipartite_matching(predicted, given, window=window).to_dict() for window in windows]
        merged = {name: value for result in results for name, value in result.items()}
        return {**merged, "variant": "; ".join(result["variant"] for result in results)}
