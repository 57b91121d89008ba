"""A mouse that points while the caption is spoken: word times and a pointer path, as in Localized Narratives."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .composition import Entity
from .narration import NarratedWord

BOX_JITTER = 0.02  # of the box's sides: people do not trace outlines exactly
SECONDS_PER_WORD = (0.22, 0.45)
PAUSE_SECONDS = (0.02, 0.12)
SEGMENT_SECONDS = 2.5  # a path is cut into segments of about this length, as recorded ones are


@dataclass(frozen=True)
class Trace:
    """Word times (N, 2) in seconds and the pointer path (K, 3) of x, y (0..1 of the image) and t."""

    times: np.ndarray
    path: np.ndarray
    segments: tuple[int, ...]  # where the path is cut; indices into it


# Stops along the unit box. Sixteen samples catch a walk along the sides exactly and the turns of a zigzag nearly.
_LOOP = np.array([(0, 0), (0.5, 0), (1, 0), (1, 0.5), (1, 1), (0.5, 1), (0, 1), (0, 0.5), (0, 0)], dtype=np.float64)
_ZIGZAG = np.array([(0, 0), (0.25, 0), (1, 0.2), (0, 0.4), (1, 0.6), (0, 0.8), (0.75, 1), (1, 1)], dtype=np.float64)


def trace_words(
    rng: np.random.Generator, words: list[NarratedWord], entities: tuple[Entity, ...], size_wh: tuple[int, int]
) -> Trace:
    """Times and a pointer path for the words of one caption.

    While a thing is named the pointer runs around or across its box, so that sixteen samples of the word's interval
    span the box; during other words it rests on the last thing, or travels to the next one right before it is named.
    """
    count = len(words)
    durations = rng.uniform(*SECONDS_PER_WORD, size=count)
    starts = 0.3 + np.cumsum(rng.uniform(*PAUSE_SECONDS, size=count)) + np.cumsum(durations) - durations
    times = np.round(np.stack([starts, starts + durations], axis=1), 3)
    boxes = np.array([e.box_xyxy for e in entities]) / np.array([*size_wh, *size_wh])
    upcoming = _upcoming(words)
    here = _center(boxes[upcoming[0]])
    stops = []
    for i, word in enumerate(words):
        start, end = times[i]
        if word.entity is None:
            there = _center(boxes[upcoming[i]]) if i + 1 < count and words[i + 1].entity is not None else here
            points = np.stack([here, (here + there) / 2 + rng.normal(0, 0.01, 2), there])
            here = there
        else:
            points = _around(rng, boxes[word.entity])
            here = points[-1]
        stops.append(np.column_stack([points, np.linspace(start, end, len(points))]))
    path = np.concatenate(stops)
    path[:, :2] = np.clip(path[:, :2], 0.001, 0.999).round(4)
    path[:, 2] = path[:, 2].round(3)
    seconds = np.floor((path[:, 2] - path[0, 2]) / SEGMENT_SECONDS)
    cuts = (np.flatnonzero(np.diff(seconds)) + 1).tolist()
    return Trace(times, path, tuple(cuts))


def _upcoming(words: list[NarratedWord]) -> list[int]:
    """Per word the entity it names or, for a word that names none, the next one (the last one at the end)."""
    result, following = [], None
    for word in reversed(words):
        following = word.entity if word.entity is not None else following
        result.append(following)
    last = next(w.entity for w in reversed(words) if w.entity is not None)
    return [last if r is None else r for r in reversed(result)]


def _center(box: np.ndarray) -> np.ndarray:
    return np.array([(box[0] + box[2]) / 2, (box[1] + box[3]) / 2])


def _around(rng: np.random.Generator, box: np.ndarray) -> np.ndarray:
    shape = _LOOP if rng.random() < 0.7 else _ZIGZAG
    if rng.random() < 0.5:
        shape = shape[:, ::-1]
    if rng.random() < 0.5:
        shape = shape[::-1]
    side = box[2:] - box[:2]
    corner = box[:2] + side * rng.normal(0, BOX_JITTER, 2)
    return corner + shape * side * (1 + rng.normal(0, BOX_JITTER, 2))
