"""What an answer is about: spans of its text, each with the box and the mask of one object."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .canvas_transform import BoxXYXY
from .mask_codec import decode_rle, encode_rle

_FIELDS = ("start", "end", "box", "box_score", "mask", "mask_score")


class PartialAnswerWarning(UserWarning):
    """An answer has targets that are not in the result, or have no mask there; the message says why."""


@dataclass(frozen=True, eq=False)
class GroundedTarget:
    """One object that an answer is about.

    start, end: the words that name it are answer.text[start:end]; a referred or a found object has the whole text.
    box: xyxy, pixels of the original image; box_score, 0..1: the detector's of an object that it found; of a referred
        box, how well it agrees with what the detector finds, None without one.
    mask: (H, W) bool in the original image; mask_score: how well it fits by the model's own guess.
    """

    start: int
    end: int
    box: BoxXYXY | None = None
    box_score: float | None = None
    mask: np.ndarray | None = field(default=None, repr=False)
    mask_score: float | None = None

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, GroundedTarget):
            return NotImplemented
        mine, theirs = ([getattr(one, name) for name in _FIELDS if name != "mask"] for one in (self, other))
        if mine != theirs or self.mask is None or other.mask is None:
            return mine == theirs and self.mask is other.mask
        return np.array_equal(self.mask, other.mask)

    def __hash__(self) -> int:
        return hash(tuple(getattr(self, name) for name in _FIELDS if name != "mask"))

    @property
    def score(self) -> float | None:
        """How sure the model is of the object: the score of its box, else of its mask."""
        return self.mask_score if self.box_score is None else self.box_score

    def to_dict(self) -> dict[str, Any]:
        """Plain lists and numbers for JSON; a mask is compressed COCO run lengths {"size": [h, w], "counts": str}."""
        record = {name: getattr(self, name) for name in _FIELDS}
        record["box"] = None if self.box is None else list(self.box)
        record["mask"] = None if self.mask is None else encode_rle(self.mask)
        return record

    @classmethod
    def from_dict(cls, record: Mapping[str, Any], image_size: tuple[int, int]) -> GroundedTarget:
        """The inverse of `to_dict`; image_size (width, height) bounds the mask."""
        if unknown := sorted(set(record) - set(_FIELDS)):
            raise ValueError(f"a GroundedTarget has no {', '.join(unknown)}; its fields are {', '.join(_FIELDS)}.")
        width, height = image_size
        box, mask = record.get("box"), record.get("mask")
        return cls(
            **{name: record[name] for name in ("start", "end", "box_score", "mask_score") if name in record},
            box=None if box is None else tuple(box),  # type: ignore[arg-type]
            mask=None if mask is None else decode_rle(mask, (height, width)),
        )


@dataclass(frozen=True, eq=False)
class PlacedObject:
    """What exports and drawings take of an answer: a name and where it is, in pixels of the original image.

    location: its own box, or the one that was asked about. score: how sure the model is of the object; where the user
    named the place and the model wrote about it, how likely the text is, but never how likely the user's words are.
    """

    text: str
    location: BoxXYXY | None
    mask: np.ndarray | None
    box_score: float | None
    mask_score: float | None
    score: float | None
    prompt_points: tuple[tuple[float, float, int], ...] | None

    @property
    def is_placed(self) -> bool:
        """Whether it has a box or a mask."""
        return self.location is not None or self.mask is not None

    @property
    def bounds(self) -> BoxXYXY:
        """Its box; of a mask alone the smallest one around it."""
        if self.location is not None:
            return self.location
        assert self.mask is not None
        rows, columns = np.flatnonzero(self.mask.any(axis=1)), np.flatnonzero(self.mask.any(axis=0))
        if not len(rows):
            return 0.0, 0.0, 0.0, 0.0
        return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)


def objects_of(result: Any) -> Iterator[PlacedObject]:
    """The objects of one answer: its targets, or what it was asked about if it names none."""
    points = result.prompt_points
    if not result.targets:
        yield PlacedObject(result.text, result.prompt_box, None, None, None, result.score, points)
    for target in result.targets:
        location = target.box if target.box is not None or len(result.targets) > 1 else result.prompt_box
        name = result.text[target.start : target.end]
        yield PlacedObject(name, location, target.mask, target.box_score, target.mask_score, target.score, points)


__all__ = ["GroundedTarget", "PartialAnswerWarning", "PlacedObject", "objects_of"]
