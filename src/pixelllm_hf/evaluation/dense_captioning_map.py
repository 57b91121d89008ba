"""Dense captioning mAP of Visual Genome: boxes must overlap and captions must agree.

Average precision over five IoU thresholds and six METEOR thresholds; `map_detection` ignores the captions. Ground
truth boxes that nearly coincide are merged first and keep all their captions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field as dataclass_field, replace
from typing import Any

import numpy as np

from pixelllm_hf.evaluation.box_iou import box_iou_matrix
from pixelllm_hf.evaluation.meteor import meteor
from pixelllm_hf.evaluation.metric_inputs import MetricInputError, boxes_array, field

IOU_THRESHOLDS = (0.3, 0.4, 0.5, 0.6, 0.7)
METEOR_THRESHOLDS = (0.0, 0.05, 0.1, 0.15, 0.2, 0.25)
DETECTION_ONLY = -1.0  # as a METEOR threshold: every caption passes
EMPTY = "EMPTY"  # the official stand-in for an empty caption

# (candidates, their references) -> (scores (N,), how they were made)
CaptionScorer = Callable[[Sequence[str], Sequence[Sequence[str]]], tuple[np.ndarray, str]]


@dataclass(frozen=True)
class MergedBox:
    """A ground truth box xywh with the captions of all boxes it stands for."""

    bbox: np.ndarray
    captions: tuple[str, ...]


@dataclass(frozen=True)
class DenseRecords:
    """All predictions, best score first; arrays (N,) in parallel. `image` indexes `image_ids`.

    `matched` ones found a ground truth box that no better one had used; `meteor` is NaN until scored.
    """

    image_ids: tuple[Any, ...]
    ground_truth_per_image: np.ndarray  # boxes that recall is measured over
    image: np.ndarray
    score: np.ndarray
    iou: np.ndarray
    matched: np.ndarray
    candidates: tuple[str, ...]
    references: tuple[tuple[str, ...], ...]
    meteor: np.ndarray

    def average_precision(
        self, iou_threshold: float, meteor_threshold: float, *, image_weights: np.ndarray | None = None
    ) -> float:
        """AP at one pair of thresholds. `image_weights` (I,) counts how often an image is drawn, for a bootstrap."""
        hits = self.matched & (self.iou >= iou_threshold)
        if meteor_threshold != DETECTION_ONLY:
            hits = hits & (self.meteor > meteor_threshold)
        if image_weights is None:
            return average_precision(hits, int(self.ground_truth_per_image.sum()))
        weights = np.asarray(image_weights)
        return average_precision(hits, int(weights @ self.ground_truth_per_image), weights[self.image])


@dataclass(frozen=True)
class DenseCaptioningMap:
    """`cells[(iou, meteor)]` holds the APs, with `DETECTION_ONLY` in place of a METEOR threshold for boxes alone."""

    map: float
    map_detection: float
    cells: dict[tuple[float, float], float]
    count: int
    ground_truth_count: int
    images: int
    variant: str
    records: DenseRecords = dataclass_field(repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Numbers for a table, by their official names."""
        named = {
            f"mAP_detection_iou{iou:.1f}" if s == DETECTION_ONLY else f"mAP_iou{iou:.1f}_meteor{s:.2f}": value
            for (iou, s), value in self.cells.items()
        }
        counts = {"count": self.count, "ground_truth_count": self.ground_truth_count, "images": self.images}
        return {"mAP": self.map, "mAP_detection": self.map_detection, **named, **counts, "variant": self.variant}

    def redrawn(self, image_weights: np.ndarray) -> DenseCaptioningMap:
        """The result when image i is drawn `image_weights[i]` times."""
        cells = {key: self.records.average_precision(*key, image_weights=image_weights) for key in self.cells}
        mean, detection = _means(cells)
        return replace(self, cells=cells, map=mean, map_detection=detection)


def dense_captioning_map(
    predictions: Sequence[Mapping[str, Any]],
    annotations: Sequence[Mapping[str, Any]],
    *,
    image_ids: Sequence[Any] | None = None,
    caption_scorer: CaptionScorer | None = None,
    merge: bool = True,
    ignore_empty_string: bool = True,
    image_sizes: Mapping[Any, tuple[int, int]] | None = None,
) -> DenseCaptioningMap:
    """mAP of predictions {image_id, bbox xywh, caption, score} against annotations {image_id, bbox xywh, caption}.

    image_ids: the images evaluated, by default those annotated; they count in recall without predictions too, and a
    prediction for another image raises `MetricInputError`. caption_scorer: METEOR on raw text by default. merge: merge
    ground truth at IoU 0.7. ignore_empty_string: despite its name, True counts a matched box without a caption as a
    true positive; False drops it and predictions that read "EMPTY". image_sizes (H, W): with it, the ground truth is
    scaled to a longer side of 720, an option of the official evaluator.

    >>> box = {"image_id": 1, "bbox": [0, 0, 9, 9], "caption": "a red bus"}
    >>> dense_captioning_map([{**box, "score": 0.5}], [box]).map
    1.0
    """
    ids = sorted({field(a, "image_id", "annotation") for a in annotations} if image_ids is None else set(image_ids))
    truth = ground_truth_of(annotations, ids, merge=merge, image_sizes=image_sizes)
    records = match_records(predictions, truth, ids, ignore_empty_string=ignore_empty_string)
    records, scorer = score_captions(records, caption_scorer or _raw_text_meteor)
    cells = {
        (iou, s): records.average_precision(iou, s)
        for iou in IOU_THRESHOLDS
        for s in (DETECTION_ONLY, *METEOR_THRESHOLDS)
    }
    mean, detection = _means(cells)
    merging = "ground truth merged at IoU 0.7" if merge else "ground truth not merged"
    return DenseCaptioningMap(
        map=mean,
        map_detection=detection,
        cells=cells,
        count=len(records.score),
        ground_truth_count=int(records.ground_truth_per_image.sum()),
        images=len(ids),
        variant=f"{scorer} on raw text; {merging}" + ("; boxes at 720 pixels" if image_sizes else ""),
        records=records,
    )


def ground_truth_of(
    annotations: Sequence[Mapping[str, Any]],
    image_ids: Sequence[Any],
    *,
    merge: bool = True,
    image_sizes: Mapping[Any, tuple[int, int]] | None = None,
) -> dict[Any, list[MergedBox]]:
    """The boxes to find, of every image of `image_ids`."""
    by_image: dict[Any, list[Mapping[str, Any]]] = {image: [] for image in image_ids}
    for annotation in annotations:
        image = field(annotation, "image_id", "annotation")
        if image in by_image:
            by_image[image].append(annotation)
    truth = {}
    for image, members in by_image.items():
        boxes = boxes_array([field(m, "bbox", "annotation") for m in members], f"annotated boxes of image {image!r}")
        captions = [field(m, "caption", "annotation") for m in members]
        merged = merge_ground_truth(boxes, captions) if merge else _unmerged(boxes, captions)
        if image_sizes is not None:
            scale = 720 / max(image_sizes[image])
            merged = [MergedBox(box.bbox * scale, box.captions) for box in merged]
        truth[image] = merged
    return truth


def merge_ground_truth(boxes_xywh: np.ndarray, captions: Sequence[str], *, threshold: float = 0.7) -> list[MergedBox]:
    """Merge boxes (N,4) around those with most neighbours, in that order; the mean box gets all captions.

    Stars, not transitive clusters: every member overlaps the centre. A box without area overlaps nothing, itself
    included, and vanishes. Single precision throughout, as in the reference: it decides which pairs reach 0.7.
    """
    boxes = np.asarray(boxes_xywh, np.float32).reshape(-1, 4)
    iou = box_iou_matrix(boxes, boxes)
    merged: list[MergedBox] = []
    while True:
        near = iou >= np.float32(threshold)
        counts = near.sum(axis=1)
        if not len(boxes) or counts.max() == 0:
            return merged
        members = np.flatnonzero(near[counts.argmax()])
        texts = tuple(captions[int(i)].replace("\n", "") for i in members)
        merged.append(MergedBox(boxes[members].mean(axis=0).astype(np.float64), texts))
        iou[members] = 0
        iou[:, members] = 0


def _unmerged(boxes_xywh: np.ndarray, captions: Sequence[str]) -> list[MergedBox]:
    pairs = zip(boxes_xywh, captions, strict=True)
    return [MergedBox(box, (caption.replace("\n", ""),)) for box, caption in pairs]


def match_records(
    predictions: Sequence[Mapping[str, Any]],
    truth: Mapping[Any, Sequence[MergedBox]],
    image_ids: Sequence[Any],
    *,
    ignore_empty_string: bool = True,
) -> DenseRecords:
    """Give every prediction the ground truth box it overlaps most, best score first within an image.

    A box that is used stays used: a second prediction is false even where another free box overlaps it, and a poor
    overlap uses a box up at all thresholds. References are the captions of that box, matched or not.
    """
    by_image: dict[Any, list[Mapping[str, Any]]] = {image: [] for image in image_ids}
    for prediction in predictions:
        image = field(prediction, "image_id", "prediction")
        if image not in by_image:
            raise MetricInputError(
                f"image {image!r} is predicted but not evaluated; add it to image_ids or drop its predictions."
            )
        by_image[image].append(prediction)
    rows: list[tuple[int, float, float, bool, str, tuple[str, ...]]] = []
    for index, image in enumerate(image_ids):
        rows.extend(_match_image(index, image, by_image[image], truth[image], ignore_empty_string))
    order = np.argsort([-row[1] for row in rows], kind="stable") if rows else np.zeros(0, int)
    rows = [rows[i] for i in order]
    counted = [sum(ignore_empty_string or "" not in box.captions for box in truth[image]) for image in image_ids]
    return DenseRecords(
        image_ids=tuple(image_ids),
        ground_truth_per_image=np.array(counted, np.int64),
        image=np.array([row[0] for row in rows], np.int64),
        score=np.array([row[1] for row in rows], np.float64),
        iou=np.array([row[2] for row in rows], np.float64),
        matched=np.array([row[3] for row in rows], bool),
        candidates=tuple(row[4] for row in rows),
        references=tuple(row[5] for row in rows),
        meteor=np.full(len(rows), np.nan),
    )


def _match_image(
    index: int,
    image: Any,
    predictions: Sequence[Mapping[str, Any]],
    truth: Sequence[MergedBox],
    ignore_empty_string: bool,
) -> list[tuple[int, float, float, bool, str, tuple[str, ...]]]:
    boxes = boxes_array([field(p, "bbox", "prediction") for p in predictions], f"predicted boxes of image {image!r}")
    scores = np.array([field(p, "score", "prediction") for p in predictions], np.float64)
    if not np.isfinite(scores).all():
        raise MetricInputError(f"scores of image {image!r} must be finite, but are {scores.tolist()}.")
    true_boxes = np.array([box.bbox for box in truth]).reshape(-1, 4)
    iou, used = box_iou_matrix(boxes, true_boxes), np.zeros(len(truth), bool)
    rows = []
    for i in np.argsort(-scores, kind="stable"):
        candidate = field(predictions[i], "caption", "prediction")
        references: tuple[str, ...] = ("",)
        best_iou, matched = 0.0, False
        if len(truth):
            best = int(iou[i].argmax())
            best_iou = float(iou[i, best])
            matched = best_iou > 0 and not used[best]
            used[best] |= matched
            references = truth[best].captions
            if matched and ignore_empty_string and "" in references:
                candidate, references = EMPTY, (EMPTY,)
        if candidate == EMPTY and not ignore_empty_string:
            continue  # dropped only now: the box it took stays used, as in the reference
        rows.append((index, float(scores[i]), best_iou, matched, candidate, tuple(references)))
    return rows


def score_captions(records: DenseRecords, caption_scorer: CaptionScorer) -> tuple[DenseRecords, str]:
    """Records with `meteor` filled in, and the scorer's name."""
    scores, name = caption_scorer(records.candidates, records.references)
    return replace(records, meteor=np.asarray(scores, np.float64)), name


def average_precision(hits: np.ndarray, ground_truth_count: int, weights: np.ndarray | None = None) -> float:
    """Mean of the best precision at recalls 0, 0.01, … 0.99; hits (N,) bool in the order of descending scores.

    Recall 1.0 is not sampled. A weight of w stands for w equal records in a row.

    >>> average_precision(np.array([False, True]), 2)
    0.255
    """
    if ground_truth_count == 0 or len(hits) == 0:
        return 0.0
    weights = np.ones(len(hits), np.int64) if weights is None else weights
    true, seen = np.cumsum(hits * weights), np.cumsum(weights)
    precision = np.where(seen > 0, true / np.maximum(seen, 1), 0.0)
    best_from_here = np.maximum.accumulate(precision[::-1])[::-1]
    # integers: 100 · true ≥ k · count decides "recall ≥ k / 100" without rounding
    first = np.searchsorted(100 * true, np.arange(100) * ground_truth_count)
    return float(np.where(first < len(hits), best_from_here[np.minimum(first, len(hits) - 1)], 0.0).sum() / 100)


def _means(cells: Mapping[tuple[float, float], float]) -> tuple[float, float]:
    with_captions = [value for (_, s), value in cells.items() if s != DETECTION_ONLY]
    boxes_alone = [value for (_, s), value in cells.items() if s == DETECTION_ONLY]
    return float(np.mean(with_captions)), float(np.mean(boxes_alone))


def _raw_text_meteor(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> tuple[np.ndarray, str]:
    scores = meteor(candidates, references)
    return scores.samples, scores.variant
