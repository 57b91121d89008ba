"""The metrics as modules of `evaluate`, loaded from the installed package and without a network.

    import evaluate
    from pixelllm_hf.evaluation.modules import module_path

    metric = evaluate.load(module_path("referring_precision"))

Each takes lists of predictions and references, one entry per sample (per image in dense captioning), and returns a
flat dictionary with `count` and `variant`.
"""

from __future__ import annotations

from pathlib import Path

from pixelllm_hf.evaluation.metric_inputs import MetricInputError

NAMES = (
    "bleu",
    "cider",
    "dense_captioning_map",
    "local_bipartite_matching",
    "meteor",
    "point_l1",
    "referring_precision",
    "rouge_l",
    "segmentation_iou",
)


def module_path(name: str) -> str:
    """The folder to give to `evaluate.load`.

    >>> module_path("cider").endswith("cider")
    True
    """
    if name not in NAMES:
        raise MetricInputError(f"the metric must be one of {', '.join(NAMES)}, but is {name!r}.")
    return str(Path(__file__).parent / name)
