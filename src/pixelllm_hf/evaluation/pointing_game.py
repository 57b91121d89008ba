"""Places of object words whatever they are called, for images whose objects have names that the model never learnt.

An object word is a mention of any name that the model knows, right or wrong. It points at an object if its point lies
in the object's box, border included. As boxes may cover much of an image, the share that points drawn at random would
reach comes along: the covered part of each image, weighted with the number of its object words.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pixelllm_hf.evaluation.bootstrap import RESAMPLES, Estimate, ratio_of_sums
from pixelllm_hf.evaluation.object_names import ObjectNames
from pixelllm_hf.processing.grounded_results import GroundedCaption


@dataclass(frozen=True)
class PointingGame:
    """Of one caption: its object words, those of them on an object, the objects, those of them pointed at.

    covered: part of the image that lies in some box, 0..1.
    """

    words: int
    on_object: int
    objects: int
    pointed_at: int
    covered: float


def score_pointing(caption: GroundedCaption, boxes: np.ndarray, names: ObjectNames) -> PointingGame:
    """boxes (O,4) xyxy of all objects, pixels of the image."""
    mentions = names.mentions([word.text for word in caption.words])
    places = [caption.words[mention.last].point for mention in mentions]
    points = np.array([place for place in places if place is not None], np.float64).reshape(-1, 1, 2)
    low, high = boxes[None, :, :2], boxes[None, :, 2:]
    hits = np.all((low <= points) & (points <= high), axis=-1)  # (points, objects)
    return PointingGame(
        words=len(mentions),
        on_object=int(np.any(hits, axis=1).sum()),
        objects=len(boxes),
        pointed_at=int(np.any(hits, axis=0).sum()),
        covered=covered_part(boxes, caption.image_size),
    )


def covered_part(boxes: np.ndarray, size_wh: tuple[int, int]) -> float:
    """The part of an image that boxes (O,4) xyxy cover together, counted where they overlap once.

    >>> covered_part(np.array([[0, 0, 5, 10], [0, 0, 10, 5]]), (10, 10))
    0.75
    """
    boxes = np.clip(boxes, 0, np.tile(size_wh, 2)).reshape(-1, 4)
    xs, ys = np.unique(boxes[:, 0::2]), np.unique(boxes[:, 1::2])
    inside = np.zeros((max(len(ys) - 1, 0), max(len(xs) - 1, 0)), bool)  # cells between the sides of all boxes
    for x0, y0, x1, y1 in boxes:
        inside[np.searchsorted(ys, y0) : np.searchsorted(ys, y1), np.searchsorted(xs, x0) : np.searchsorted(xs, x1)] = 1
    return float((np.diff(ys)[:, None] * np.diff(xs) * inside).sum() / (size_wh[0] * size_wh[1]))


def pointing_metrics(scores: Sequence[PointingGame], *, resamples: int = RESAMPLES) -> dict[str, Estimate]:
    """Shares of words and of objects over all images."""
    words, on_object, objects, pointed_at, covered = (
        np.array([getattr(score, name) for score in scores], np.float64)
        for name in ("words", "on_object", "objects", "pointed_at", "covered")
    )
    return {
        "word_on_object": ratio_of_sums(on_object, words, resamples=resamples),
        "word_on_object_by_chance": ratio_of_sums(covered * words, words, resamples=resamples),
        "object_pointed_at": ratio_of_sums(pointed_at, objects, resamples=resamples),
    }
