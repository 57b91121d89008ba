"""What a user gets: a caption whose words have places, in pixels of the original picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

import numpy as np
from PIL import Image

from .canvas_transform import CanvasTransform
from .dataset_exports import pascal_voc_annotation
from .dataset_exports import to_supervision
from .dataset_exports import yolo_labels
from .draw_caption import draw_caption
from .draw_objects import draw_objects
from .image_reading import read_image
from .mask_codec import decode_rle
from .mask_codec import encode_rle
from .result_exports import coco_result
from .result_exports import labelme_record
from .result_exports import narrative_record
from .result_html import result_html
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
    """The answer to one prompt, or one object that was found.

    words: in reading order; score: geometric mean of the probabilities of all tokens, 0..1.
    image_size: (width, height) of the original picture in pixels.
    prompt: the text prompt; prompt_box / prompt_points: where it pointed, original pixels, None = the whole picture;
    points are (x, y, label), label 1 for inside and 0 for outside. prompt_index: which of the picture's prompts.
    box: xyxy of what the text is about, pixels of the original picture: the referred or the found object; None if the
    task has none. box_score, 0..1: the detector's of an object that it found; of a referred box, how well it agrees
    with what the detector finds, None without one. `score` of a given expression is how likely its words are.
    mask: (H, W) bool, the same object in the original picture; mask_score: how well it fits by the model's own guess.
    """

    text: str
    words: tuple[GroundedWord, ...]
    image_size: tuple[int, int]
    score: float | None = None
    prompt: str | None = None
    prompt_box: Box | None = None
    prompt_points: tuple[tuple[float, float, int], ...] | None = None
    prompt_index: int = 0
    box: Box | None = None
    box_score: float | None = None
    mask: np.ndarray | None = field(default=None, repr=False, compare=False)  # compared below
    mask_score: float | None = None

    def __post_init__(self) -> None:
        if self.mask is not None and self.mask.shape != (self.image_size[1], self.image_size[0]):
            raise ValueError(
                f"a mask must have the picture's height and width {self.image_size[::-1]}, but its shape is "
                f"{self.mask.shape}. Bring it there with masks_on_image."
            )

    def __eq__(self, other: object) -> bool:
        if other.__class__ is not self.__class__:
            return NotImplemented
        assert isinstance(other, GroundedCaption)
        mine, theirs = ([getattr(one, f.name) for f in fields(one) if f.compare] for one in (self, other))
        if mine != theirs or (self.mask is None) != (other.mask is None):
            return False
        return self.mask is None or np.array_equal(self.mask, np.asarray(other.mask))

    @property
    def trace(self) -> list[Point]:
        """The points of the words in reading order, those without one left out."""
        return [word.point for word in self.words if word.point is not None]

    @property
    def location(self) -> Box | None:
        """The box that the text is about: its own, or the one that was asked about; None for a whole picture."""
        return self.prompt_box if self.box is None else self.box

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, numbers and strings for JSON; the trace is added for readers that want nothing else.

        A mask is a compressed COCO run-length record {"size": [h, w], "counts": str}.
        """
        record = _plain(asdict(replace(self, mask=None)))
        record["mask"] = None if self.mask is None else encode_rle(self.mask)
        return record | {"trace": [list(point) for point in self.trace]}

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> GroundedCaption:
        """The inverse of `to_dict`; the trace is recomputed."""
        known = _known(
            cls, {k: v for k, v in record.items() if k != "trace"}, tuples=("image_size", "prompt_box", "box")
        )
        known["words"] = tuple(GroundedWord.from_dict(word) for word in known["words"])
        if known.get("prompt_points") is not None:
            known["prompt_points"] = tuple((x, y, int(label)) for x, y, label in known["prompt_points"])
        if known.get("mask") is not None:
            width, height = known["image_size"]
            known["mask"] = decode_rle(known["mask"], (height, width))
        return cls(**known)

    def to_coco(self, image_id: Any = 0, **options: Any) -> dict[str, Any]:
        """A COCO result record; see `coco_result`."""
        return coco_result(self, image_id, **options)

    def to_labelme(self, image_path: str = "") -> dict[str, Any]:
        """A labelme file of this answer alone; see `labelme_record`."""
        return labelme_record([self], image_path, image_size=self.image_size)

    def to_localized_narratives(self, image_id: Any = 0, **options: Any) -> dict[str, Any]:
        """A line of a Localized Narratives file; see `narrative_record`."""
        return narrative_record(self, image_id, **options)

    def to_yolo(self, classes: Sequence[str]) -> list[str]:
        """Lines of a YOLO label file; see `yolo_labels`."""
        return yolo_labels([self], classes, image_size=self.image_size)

    def to_pascal_voc(self, file_name: str = "") -> str:
        """A Pascal VOC file of this answer alone; see `pascal_voc_annotation`."""
        return pascal_voc_annotation([self], file_name, image_size=self.image_size)

    def to_supervision(self) -> Any:
        """`supervision.Detections` of this answer alone; see `to_supervision`."""
        return to_supervision([self])

    def _repr_html_(self) -> str:
        """What notebooks show; see `result_html`."""
        return result_html(self)

    def draw(self, image: Any, **options: Any) -> Image.Image:
        """The picture with the answer in it: the object if there is one (`draw_objects`), else every word joined to
        its place and the caption below (`draw_caption`).

        image: the original picture, as the processor takes it.
        """
        if self.box is not None or self.mask is not None:
            return draw_results(image, [self], **options)
        picture = _picture_of(image, self.image_size)
        return draw_caption(
            picture, self.text, self.words, prompt_box=self.prompt_box, prompt_points=self.prompt_points, **options
        )


def draw_results(image: Any, results: Sequence[GroundedCaption], **options: Any) -> Image.Image:
    """One picture with all its results as objects: masks, boxes and what they are called; see `draw_objects`.

    image: the original picture, as the processor takes it. Results without a place of their own are only listed.
    """
    picture = read_image(image).pixels if not results else _picture_of(image, results[0].image_size)
    return draw_objects(picture, results, **options)


def _picture_of(image: Any, size_wh: tuple[int, int]) -> Image.Image:
    picture = read_image(image).pixels
    if picture.size != tuple(size_wh):
        raise ValueError(
            f"the caption belongs to a picture of {size_wh[0]} x {size_wh[1]} pixels, but this one "
            f"is {picture.size[0]} x {picture.size[1]}. Pass the picture that went into the processor."
        )
    return picture


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


def box_on_image(box: np.ndarray, transform: CanvasTransform) -> Box | None:
    """box (4,) xyxy, normalized -> pixels within the picture; None if it is not finite."""
    return place_of(box, transform)[1] if np.isfinite(box).all() else None


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


__all__ = [
    "GroundedCaption",
    "GroundedWord",
    "box_on_image",
    "draw_results",
    "ground_words",
    "mean_probability",
    "place_of",
]
