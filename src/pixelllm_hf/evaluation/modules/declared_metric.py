"""What all our modules of `evaluate` declare in the same way: their documentation and the columns they take."""

import sys
from typing import ClassVar

import datasets
import evaluate

CAPTIONS = {"predictions": datasets.Value("string"), "references": datasets.List(datasets.Value("string"))}


class DeclaredMetric(evaluate.Metric):
    """Describes itself with the docstrings of its file and of its class; `columns` are its features.

    Files that `evaluate` loads must name it through this module: of the classes in their namespace it takes the first.
    """

    columns: ClassVar[dict]

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=sys.modules[type(self).__module__].__doc__,
            citation="",
            inputs_description=type(self).__doc__,
            features=datasets.Features(self.columns),
        )
