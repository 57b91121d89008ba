"""Grounded captions of scenes whose objects are known: are the right things named, and placed where they are?

Everything is measured on what `generate()` returned, never teacher-forced. The definitions:

Object F1, of a scene: the set of names found in the caption (singular or plural) against the set of names of the
objects present; 2·|both| / (|found| + |present|). Reported as the mean over scenes with something to name. Names that
are not in the vocabulary cannot be found, and do not count as present (see `seen_classes`).

Object words: every mention, singular or plural, of a name that is present. A name of several words counts once, with
the location of its last word. Mentions of things that are absent have no place to compare with; they lower F1.

The place of a mention is `word.point`, the centre of the box that the model gives the word. What it is compared with:
 - a singular name: the object's box. If several objects have that name, the one whose box is best met (containing the
   point before not containing it, then the nearest centre): captions do not say which one they mean in a way that
   could be checked. `point_in_box_single` leaves these cases out.
 - a plural name: the smallest box around all objects of that name.
A point on the border is inside. A word without a location is outside and has an error of one diagonal.

Centre error: distance of the point to the centre of that box, in percent of the image's diagonal, mean over object
words.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pixelllm_hf.evaluation.bootstrap import RESAMPLES, Estimate, ratio_of_sums
from pixelllm_hf.evaluation.images import EvaluationScene
from pixelllm_hf.evaluation.object_names import ObjectNames
from pixelllm_hf.processing.grounded_results import GroundedCaption


@dataclass(frozen=True)
class PlacedMention:
    """An object word and how well it is placed; `error` in diagonals, `single`: only one object it could mean."""

    name: str
    inside: bool
    error: float
    single: bool


@dataclass(frozen=True)
class SceneScore:
    """What one caption got right. `found` and `present` are sets of names."""

    found: frozenset[str]
    present: frozenset[str]
    mentions: tuple[PlacedMention, ...]

    @property
    def f1(self) -> float:
        """0 where nothing is present."""
        return 2 * len(self.found & self.present) / max(len(self.found) + len(self.present), 1)


def score_scene(caption: GroundedCaption, scene: EvaluationScene, names: ObjectNames) -> SceneScore:
    """Compare one caption with its scene."""
    present = frozenset(scene.names) & names.names.keys()
    diagonal = float(np.hypot(*caption.image_size))
    mentions, placed = names.mentions([word.text for word in caption.words]), []
    for mention in mentions:
        if mention.name not in present:
            continue
        boxes = scene.boxes[[name == mention.name for name in scene.names]]
        point = caption.words[mention.last].point
        inside, distance = location_error(point, boxes, plural=mention.plural)
        error = 1.0 if point is None else distance / diagonal
        placed.append(PlacedMention(mention.name, inside, error, mention.plural or len(boxes) == 1))
    return SceneScore(frozenset(m.name for m in mentions), present, tuple(placed))


def location_error(point: tuple[float, float] | None, boxes: np.ndarray, *, plural: bool) -> tuple[bool, float]:
    """Whether a point (x, y) lies in the box that its word may mean, and its distance to that box's centre.

    boxes (O,4) xyxy of the objects of that name, O ≥ 1; all in one frame. Without a point: (False, inf).

    >>> location_error((5.0, 5.0), np.array([[0, 0, 10, 10], [20, 0, 30, 10]]), plural=True)
    (True, 10.0)
    """
    if point is None:
        return False, float("inf")
    if plural:
        boxes = np.concatenate([boxes[:, :2].min(0), boxes[:, 2:].max(0)])[None]
    x, y = point
    inside = (boxes[:, 0] <= x) & (x <= boxes[:, 2]) & (boxes[:, 1] <= y) & (y <= boxes[:, 3])
    centers = (boxes[:, :2] + boxes[:, 2:]) / 2
    distances = np.hypot(centers[:, 0] - x, centers[:, 1] - y)
    best = np.lexsort((distances, ~inside))[0]
    return bool(inside[best]), float(distances[best])


def trace_metrics(scores: Sequence[SceneScore], *, resamples: int = RESAMPLES) -> dict[str, Estimate]:
    """All numbers of the trace task with their intervals; point and error metrics are over object words."""

    def over_mentions(value: str, only_single: bool = False) -> tuple[np.ndarray, np.ndarray]:
        kept = [[m for m in s.mentions if m.single or not only_single] for s in scores]
        return np.array([sum(getattr(m, value) for m in row) for row in kept], float), np.array([len(r) for r in kept])

    error, counted = over_mentions("error")
    return naming_metrics(scores, resamples=resamples) | {
        "point_in_box": ratio_of_sums(*over_mentions("inside"), resamples=resamples),
        "point_in_box_single": ratio_of_sums(*over_mentions("inside", only_single=True), resamples=resamples),
        "center_error_percent": ratio_of_sums(100 * error, counted, resamples=resamples),
    }


def naming_metrics(scores: Sequence[SceneScore], *, resamples: int = RESAMPLES) -> dict[str, Estimate]:
    """Those that need no locations."""
    correct = np.array([len(s.found & s.present) for s in scores], float)
    found, present = (np.array([len(getattr(s, name)) for s in scores]) for name in ("found", "present"))
    return {
        "object_f1": ratio_of_sums(np.array([s.f1 for s in scores]), present > 0, resamples=resamples),
        "object_precision": ratio_of_sums(correct, found, resamples=resamples),
        "object_recall": ratio_of_sums(correct, present, resamples=resamples),
    }
