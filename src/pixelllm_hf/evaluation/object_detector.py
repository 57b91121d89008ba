"""A detector of COCO's 80 categories, run on one image: the teacher that a model's numbers are compared with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from pixelllm_hf.evaluation.box_iou import box_iou_matrix
from pixelllm_hf.evaluation.category_names import SYNONYMS
from pixelllm_hf.processing.canvas_transform import CanvasTransform

_PADDING = 114.0


@dataclass(frozen=True)
class Detection:
    """box: xyxy in shares of the image's sides. score: 0..1."""

    name: str
    score: float
    box: tuple[float, float, float, float]


class ObjectDetector:
    """answer: pixels (1,3,S,S) less `mean` -> what it says of each of its cells, (1,M,5 + 80), as `YoloxTower.detect`:
    box xyxy in shares of the canvas, whether there is an object, and of which of COCO's categories, in COCO's order.

    canvas: S, the side that the longest one of the image is fitted to. Detections of one category that overlap more
    than `overlap` are one; those with a score below `least` are none, and at most `most` an image are kept.
    """

    def __init__(
        self,
        answer: Callable[[torch.Tensor], torch.Tensor],
        *,
        mean: float = _PADDING,
        canvas: int = 416,
        least: float = 0.01,
        overlap: float = 0.65,
        most: int = 100,
    ):
        self.answer, self.mean, self.canvas = answer, mean, canvas
        self.least, self.overlap, self.most = least, overlap, most

    def detect(self, image: Image.Image) -> list[Detection]:
        """What is in the image, the surest first."""
        transform = CanvasTransform.fit(image.size, self.canvas)
        width, height = transform.resized_size_wh
        pixels = np.full((self.canvas, self.canvas, 3), self.mean, np.float32)
        pixels[:height, :width] = np.asarray(image.convert("RGB").resize((width, height), Image.Resampling.BILINEAR))
        tensor = torch.from_numpy(pixels - self.mean).permute(2, 0, 1)[None]
        with torch.inference_mode():
            found = self.answer(tensor)[0].float().numpy()
        scores = found[:, 4:5] * found[:, 5:]
        corners = np.clip(found[:, :4] * np.array([self.canvas / width, self.canvas / height] * 2), 0, 1)
        detections = []
        for number, name in enumerate(SYNONYMS):
            chosen = np.flatnonzero(scores[:, number] > self.least)
            for i in chosen[suppressed(corners[chosen], scores[chosen, number], self.overlap)]:
                detections.append(Detection(name, float(scores[i, number]), tuple(corners[i].tolist())))
        return sorted(detections, key=lambda d: -d.score)[: self.most]


def suppressed(boxes: np.ndarray, scores: np.ndarray, overlap: float) -> np.ndarray:
    """boxes (N,4) xyxy and scores (N,) -> indices of those that no surer kept one overlaps more than `overlap`."""
    xywh = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
    ious, kept = box_iou_matrix(xywh, xywh), []
    alive = np.ones(len(boxes), bool)
    for i in np.argsort(-scores, kind="stable"):
        if alive[i]:
            kept.append(int(i))
            alive &= ious[i] <= overlap
    return np.array(kept, np.int64)
