"""What a user gets: a caption whose words have places, in pixels of the original picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from PIL import Image

from .canvas_transform import CanvasTransform
from .drawing import draw_caption
from .image_reading import read_image
from .word_spans import SpannedText

Point = tuple[float, float]
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class GroundedWord:
    """One word of a caption and its place.

    text: the word without the punctuation around it; it is caption.text[start:end].
    point: centre of the box; box: xyxy around the places of the word's tokens (a single point if the model gives one
        point a token). Pixels of the original picture, within it; None where the model gave none.
    score: geometric mean of the probabilities of the word's tokens, 0..1; None if they were not recorded.
    """

    text: str
    start: int
    end: int
    point: Point | None = None
    box: Box | None = None
    score: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, numbers and strings for JSON."""
        return _plain(asdict(self))

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> GroundedWord:
        """The inverse of `to_dict`."""
        return cls(**_known(cls, record, tuples=("point", "box")))


@dataclass(frozen=True)
class GroundedCaption:
    """The answer to one prompt.

    words: in reading order; score: geometric mean of the probabilities of all tokens, 0..1.
    image_size: (width, height) of the original picture in pixels.
    prompt: the text prompt; prompt_box / prompt_points: where it pointed, original pixels, None = the whole picture;
    points are (x, y, label), label 1 for inside and 0 for outside. prompt_index: which of the picture's prompts.
    """

    text: str
    words: tuple[GroundedWord, ...]
    image_size: tuple[int, int]
    score: float | None = None
    prompt: str | None = None
    prompt_box: Box | None = None
    prompt_points: tuple[tuple[float, float, int], ...] | None = None
    prompt_index: int = 0

    @property
    def trace(self) -> list[Point]:
        """The points of the words in reading order, those without one left out."""
        return [word.point for word in self.words if word.point is not None]

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, numbers and strings for JSON; the trace is added for readers that want nothing else."""
        return _plain(asdict(self)) | {"trace": [list(point) for point in self.trace]}

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> GroundedCaption:
        """The inverse of `to_dict`; the trace is recomputed."""
        fields = _known(cls, {k: v for k, v in record.items() if k != "trace"}, tuples=("image_size", "prompt_box"))
        fields["words"] = tuple(GroundedWord.from_dict(word) for word in fields["words"])
        if fields.get("prompt_points") is not None:
            fields["prompt_points"] = tuple((x, y, int(label)) for x, y, label in fields["prompt_points"])
        return cls(**fields)

    def draw(self, image: Any, **options: Any) -> Image.Image:
        """The picture with every word joined to its place and the caption below; see `draw_caption`.

        image: the original picture, as the processor takes it.
        """
        picture = read_image(image).pixels
        if picture.size != tuple(self.image_size):
            raise ValueError(
                f"the caption belongs to a picture of {self.image_size[0]} x {self.image_size[1]} pixels, but this one "
                f"is {picture.size[0]} x {picture.size[1]}. Pass the picture that went into the processor."
            )
        return draw_caption(
            picture, self.text, self.words, prompt_box=self.prompt_box, prompt_points=self.prompt_points, **options
        )


def ground_words(
    spanned: SpannedText,
    coordinates: np.ndarray | None,
    log_probs: np.ndarray | None,
    transform: CanvasTransform,
) -> tuple[GroundedWord, ...]:
    """Merge what the tokens say into words.

    coordinates (T,P,2) normalized xy of the unpadded picture and log_probs (T,) belong to the tokens of `spanned`;
    NaN and None mean unknown.
    """
    words = []
    for span in spanned.words():
        tokens = list(span.tokens)
        point, box = None, None
        if coordinates is not None and tokens:
            point, box = place_of(coordinates[tokens], transform)
        score = mean_probability(log_probs[tokens]) if log_probs is not None else None
        words.append(GroundedWord(spanned.text[span.start : span.end], span.start, span.end, point, box, score))
    return tuple(words)


def place_of(coordinates: np.ndarray, transform: CanvasTransform) -> tuple[Point | None, Box | None]:
    """Smallest box around the finite points (…,2), normalized -> its centre and itself, pixels within the picture."""
    points = np.asarray(coordinates, dtype=np.float64).reshape(-1, 2)
    points = points[np.isfinite(points).all(axis=1)]
    if not len(points):
        return None, None
    points = transform.clip_to_image(transform.normalized_to_image(points))
    (x0, y0), (x1, y1) = points.min(axis=0).tolist(), points.max(axis=0).tolist()
    return ((x0 + x1) / 2, (y0 + y1) / 2), (x0, y0, x1, y1)


def mean_probability(log_probs: np.ndarray) -> float | None:
    """exp of the mean of the finite log-probabilities."""
    finite = log_probs[np.isfinite(log_probs)]
    return float(np.exp(finite.astype(np.float64).mean())) if finite.size else None


def _known(cls: type, record: Mapping[str, Any], tuples: Sequence[str]) -> dict[str, Any]:
    unknown = set(record) - set(cls.__dataclass_fields__)  # type: ignore[attr-defined]
    if unknown:
        raise ValueError(
            f"a {cls.__name__} has no {', '.join(sorted(unknown))}; its fields are "
            f"{', '.join(cls.__dataclass_fields__)}."  # type: ignore[attr-defined]
        )
    return {k: tuple(v) if k in tuples and v is not None else v for k, v in record.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


__all__ = ["GroundedCaption", "GroundedWord", "ground_words", "mean_probability", "place_of"]
