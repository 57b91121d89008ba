"""Referring segmentation: cIoU, gIoU and the share of masks above an IoU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from pixelllm_hf.evaluation.box_iou import aligned_box_iou
from pixelllm_hf.evaluation.metric_inputs import MetricInputError, boxes_array, field
from pixelllm_hf.evaluation.referring_precision import paired_by_id, share_above
from pixelllm_hf.processing.mask_codec import segmentation_to_mask

VARIANT = "cIoU = sum of intersections / sum of unions; gIoU = mean IoU, both masks empty counts 0"
THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9)


@dataclass(frozen=True)
class SegmentationIoU:
    """cIoU, gIoU, `precision[t]` of mask IoU, and P@0.5 of the tight box of the mask against the box annotation.

    `intersections`, `unions`, `box_ious` run in parallel with `ids`; `box_ious` is None where boxes are not annotated.
    Papers report cIoU for RefCOCO/+/g. All are NaN when nothing was predicted.
    """

    ciou: float
    giou: float
    precision: dict[float, float]
    box_precision: float | None
    ids: tuple[Any, ...]
    intersections: np.ndarray
    unions: np.ndarray
    box_ious: np.ndarray | None
    count: int
    skipped: int
    variant: str = VARIANT

    def to_dict(self) -> dict[str, Any]:
        """Numbers for a table, by their official names."""
        named = {f"seg_P@{t:g}": value for t, value in self.precision.items() if t != 0.5}
        official = {"seg_cIoU": self.ciou, "seg_gIoU": self.giou, "seg_box_Precision@1": self.box_precision}
        if 0.5 in self.precision:
            official["seg_AP"] = self.precision[0.5]
        return {**official, **named, "count": self.count, "skipped": self.skipped, "variant": self.variant}


def segmentation_iou(
    predictions: Sequence[Mapping[str, Any]],
    annotations: Sequence[Mapping[str, Any]],
    *,
    image_sizes: Mapping[Any, tuple[int, int]] | None = None,
    thresholds: Sequence[float] = THRESHOLDS,
) -> SegmentationIoU:
    """Compare one mask per expression with its annotation.

    Both are records with `id` and `segmentation`: run lengths, polygons or a bitmap (H,W), in the size of the image;
    annotations may have `bbox` xywh. Polygons need the image's (H, W), from `image_sizes[image_id]` or else from the
    other side's mask; an empty list of polygons is an empty mask. Pairing is that of `referring_precision`.

    >>> mask = np.eye(2, dtype=bool)
    >>> segmentation_iou([{"id": 1, "segmentation": mask}], [{"id": 1, "segmentation": mask}]).precision[0.5]
    1.0
    """
    pairs = paired_by_id(predictions, annotations)
    intersections, unions, tight = np.zeros(len(pairs)), np.zeros(len(pairs)), np.zeros((len(pairs), 4))
    for i, (expression, (prediction, annotation)) in enumerate(pairs.items()):
        predicted, annotated = _mask_pair(expression, prediction, annotation, image_sizes or {})
        intersections[i] = np.count_nonzero(predicted & annotated)
        unions[i] = np.count_nonzero(predicted | annotated)
        tight[i] = tight_box_xywh(predicted)
    box_ious = None
    if pairs and all("bbox" in annotation for _, annotation in pairs.values()):
        annotated_boxes = boxes_array([a["bbox"] for _, a in pairs.values()], "annotated boxes")
        box_ious = aligned_box_iou(tight, annotated_boxes, epsilon=1e-6)
    ious = intersections / (unions + 1e-5)
    return SegmentationIoU(
        ciou=cumulative_iou(intersections, unions),
        giou=float(ious.mean()) if len(ious) else float("nan"),
        precision={float(t): share_above(ious, t) for t in thresholds},
        box_precision=None if box_ious is None else share_above(box_ious, 0.5),
        ids=tuple(pairs),
        intersections=intersections,
        unions=unions,
        box_ious=box_ious,
        count=len(pairs),
        skipped=len({a["id"] for a in annotations if a["id"] > 0}) - len(pairs),
    )


def cumulative_iou(intersections: np.ndarray, unions: np.ndarray) -> float:
    """cIoU; the reference adds its 1e-5 to the mean union, not to the sum. NaN of nothing."""
    return float(np.mean(intersections) / (np.mean(unions) + 1e-5)) if len(intersections) else float("nan")


def tight_box_xywh(mask: np.ndarray) -> list[float]:
    """Smallest box around the mask (H,W), its far edges one behind the last row and column; zeros for an empty mask.

    >>> tight_box_xywh(np.array([[0, 0, 0], [0, 1, 1]]))
    [1.0, 1.0, 2.0, 1.0]
    """
    rows, columns = np.flatnonzero(np.any(mask, axis=1)), np.flatnonzero(np.any(mask, axis=0))
    if not len(rows):
        return [0.0, 0.0, 0.0, 0.0]
    return [float(v) for v in (columns[0], rows[0], columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1)]


def mask_from_logits(
    logits: np.ndarray | torch.Tensor,
    input_size_hw: tuple[int, int],
    padded_size_hw: tuple[int, int],
    original_size_hw: tuple[int, int],
) -> np.ndarray:
    """Decoder logits (h,w) of the padded canvas -> mask (H,W) bool of the original image.

    The part that shows the image, of `input_size_hw` within `padded_size_hw`, is cut out, resized with half-pixel
    centres and no antialiasing, and thresholded at 0 (logits, not probabilities).
    """
    logits = torch.as_tensor(np.asarray(logits)) if not isinstance(logits, torch.Tensor) else logits
    rows, columns = (int(input_size_hw[i] * logits.shape[i] / padded_size_hw[i]) for i in range(2))
    cut = logits[:rows, :columns].float()[None, None]
    resized = F.interpolate(cut, tuple(original_size_hw), mode="bilinear", align_corners=False)
    return (resized[0, 0] > 0).cpu().numpy()


def _mask_pair(
    expression: Any,
    prediction: Mapping[str, Any],
    annotation: Mapping[str, Any],
    image_sizes: Mapping[Any, tuple[int, int]],
) -> tuple[np.ndarray, np.ndarray]:
    predicted = field(prediction, "segmentation", "prediction")
    annotated = field(annotation, "segmentation", "annotation")
    size_hw = image_sizes.get(annotation.get("image_id")) or _own_size(predicted) or _own_size(annotated)
    if size_hw is None:
        raise MetricInputError(
            f"expression {expression!r} has polygons on both sides; give the image's (H, W) in image_sizes."
        )
    height, width = size_hw
    masks = _to_mask(predicted, (height, width)), _to_mask(annotated, (height, width))
    if masks[0].shape != masks[1].shape:
        raise MetricInputError(
            f"the masks of expression {expression!r} differ in size: predicted {masks[0].shape}, annotated "
            f"{masks[1].shape}; bring predictions to the original size with mask_from_logits."
        )
    return masks


def _own_size(segmentation: Any) -> tuple[int, int] | None:
    if isinstance(segmentation, Mapping):
        return tuple(segmentation["size"])
    return segmentation.shape if isinstance(segmentation, np.ndarray) else None


def _to_mask(segmentation: Any, size_hw: tuple[int, int]) -> np.ndarray:
    if isinstance(segmentation, (np.ndarray, torch.Tensor)):
        return np.asarray(segmentation).astype(bool)
    return segmentation_to_mask(segmentation, size_hw)
