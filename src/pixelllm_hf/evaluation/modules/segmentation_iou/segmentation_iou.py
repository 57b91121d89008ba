"""Referring segmentation: cIoU, gIoU and the share of masks above an IoU, as a module of `evaluate`."""

import datasets

from pixelllm_hf.evaluation.modules import declared_metric
from pixelllm_hf.evaluation.segmentation_iou import segmentation_iou

_RUN_LENGTHS = {"size": datasets.List(datasets.Value("int64"), length=2), "counts": datasets.Value("string")}
_FEATURES = {"predictions": _RUN_LENGTHS, "references": _RUN_LENGTHS}


class SegmentationIoUModule(declared_metric.DeclaredMetric):
    """One predicted and one annotated mask per expression, as compressed COCO run lengths of the original size."""

    columns = _FEATURES

    def _compute(self, predictions, references):
        masks, annotated = (
            [{"id": i, "segmentation": mask} for i, mask in enumerate(side, 1)] for side in (predictions, references)
        )
        return segmentation_iou(masks, annotated).to_dict()
