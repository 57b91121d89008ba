"""What a user gets: a caption whose words have locations, in pixels of the original image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import numpy as np
from PIL import Image

from .canvas_transform import BoxXYXY, CanvasTransform
from .dataset_exports import pascal_voc_annotation, to_supervision, yolo_labels
from .draw_caption import draw_caption
from .draw_objects import draw_objects
from .grounded_targets import GroundedTarget, objects_of
from .image_reading import read_image
from .result_exports import coco_result, labelme_record, narrative_record
from .result_html import result_html
from .word_spans import SpannedText

Point = tuple[float, float]

VISUAL_THRESHOLD = 0.5  # as likely as not, of a calibrated probability

_OF_TARGET = ("box", "box_score", "mask", "mask_score")


@dataclass(frozen=True)
class GroundedWord:
    """One word of a caption and its place.

    text: the word without the punctuation around it; it is caption.text[start:end].
    point: centre of the box; box: xyxy around the locations of the word's tokens (a single point if the model gives one
        point a token). Pixels of the original image, within it; None where the model gave none.
    score: geometric mean of the probabilities of the word's tokens, 0..1; None if they were not recorded.
    spread: how far off each number of `box` is expected to be, in pixels of the original image; that of the token
        which the number is from.
    visual: how likely the word has a location in the image at all, 0..1, said by its last token, which has seen the
        whole word. Both are None where the model does not predict them.
    """

    text: str
    start: int
    end: int
    point: Point | None = None
    box: BoxXYXY | None = None
    score: float | None = None
    spread: BoxXYXY | None = None
    visual: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, numbers and strings for JSON."""
        return _plain(asdict(self))

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> GroundedWord:
        """The inverse of `to_dict`."""
        return cls(**_known(cls, record, tuples=("point", "box", "spread")))


@dataclass(frozen=True, init=False)
class GroundedCaption:
    """The answer to one prompt, or one object that was found.

    words: in reading order; score: geometric mean of the probabilities of all tokens, 0..1; of a given expression that
    is how likely its words are.
    image_size: (width, height) of the original image in pixels.
    prompt: the text prompt; prompt_box / prompt_points: where it pointed, original pixels, None = the whole image;
    points are (x, y, label), label 1 for inside and 0 for outside. prompt_index: which of the image's prompts.
    targets: what the answer is about, in the order of its text (see `GroundedTarget`); none in a plain caption.
    visual_threshold: words with `visual` below it are taken to have no location (see `placed_words`).

    `box`, `box_score`, `mask` and `mask_score` are those of the only target, None where there are none or several.
    Given in place of targets they make one for the whole text.
    """

    text: str
    words: tuple[GroundedWord, ...]
    image_size: tuple[int, int]
    score: float | None
    prompt: str | None
    prompt_box: BoxXYXY | None
    prompt_points: tuple[tuple[float, float, int], ...] | None
    prompt_index: int
    targets: tuple[GroundedTarget, ...]
    visual_threshold: float

    def __init__(
        self,
        text: str,
        words: tuple[GroundedWord, ...],
        image_size: tuple[int, int],
        score: float | None = None,
        prompt: str | None = None,
        prompt_box: BoxXYXY | None = None,
        prompt_points: tuple[tuple[float, float, int], ...] | None = None,
        prompt_index: int = 0,
        targets: tuple[GroundedTarget, ...] = (),
        visual_threshold: float = VISUAL_THRESHOLD,
        *,
        box: BoxXYXY | None = None,
        box_score: float | None = None,
        mask: np.ndarray | None = None,
        mask_score: float | None = None,
    ):
        if box is not None or mask is not None:
            if targets:
                raise ValueError("box and mask make the only target, but targets came too. Leave out either.")
            targets = (GroundedTarget(0, len(text), box, box_score, mask, mask_score),)
        for target in targets:
            if target.mask is not None and target.mask.shape != (image_size[1], image_size[0]):
                raise ValueError(
                    f"a mask must have the image's height and width {image_size[::-1]}, but its shape is "
                    f"{target.mask.shape}. Bring it there with masks_on_image."
                )
        values = (
            *(text, words, image_size, score, prompt, prompt_box, prompt_points, prompt_index),
            *(tuple(targets), visual_threshold),
        )
        for known, value in zip(fields(self), values, strict=True):
            object.__setattr__(self, known.name, value)

    @property
    def _only(self) -> GroundedTarget | None:
        return self.targets[0] if len(self.targets) == 1 else None

    @property
    def box(self) -> BoxXYXY | None:
        """xyxy of the only target, pixels of the original image."""
        return None if self._only is None else self._only.box

    @property
    def box_score(self) -> float | None:
        """Of the only target."""
        return None if self._only is None else self._only.box_score

    @property
    def mask(self) -> np.ndarray | None:
        """(H, W) bool of the only target, in the original image."""
        return None if self._only is None else self._only.mask

    @property
    def mask_score(self) -> float | None:
        """Of the only target."""
        return None if self._only is None else self._only.mask_score

    @property
    def placed_words(self) -> tuple[GroundedWord, ...]:
        """All words as the trace, drawings and exports show them: words that probably have no location have none here.

        The model says a point for every word; that of "and" is no better than chance.
        """
        return tuple(
            word if word.visual is None or word.visual >= self.visual_threshold else replace(word, point=None, box=None)
            for word in self.words
        )

    @property
    def trace(self) -> list[Point]:
        """The points of the `placed_words` in reading order, those without one left out."""
        return [word.point for word in self.placed_words if word.point is not None]

    @property
    def location(self) -> BoxXYXY | None:
        """The box that the text is about: its own, or the one that was asked about; None for a whole image."""
        return self.prompt_box if self.box is None else self.box

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, numbers and strings for JSON: the fields, with the words and targets as their own `to_dict`.

        For readers that want nothing else it also has what the only target has, and the trace.
        """
        record = {known.name: _plain(getattr(self, known.name)) for known in fields(self)}
        record["words"] = [word.to_dict() for word in self.words]
        record["targets"] = [target.to_dict() for target in self.targets]
        only = record["targets"][0] if len(self.targets) == 1 else {}
        return record | {name: only.get(name) for name in _OF_TARGET} | {"trace": _plain(self.trace)}

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> GroundedCaption:
        """The inverse of `to_dict`. A record without targets, as older versions wrote it, has at most one."""
        known = _known(
            cls, {k: v for k, v in record.items() if k not in (*_OF_TARGET, "trace")}, ("image_size", "prompt_box")
        )
        known["words"] = tuple(GroundedWord.from_dict(word) for word in known["words"])
        if known.get("prompt_points") is not None:
            known["prompt_points"] = tuple((x, y, int(label)) for x, y, label in known["prompt_points"])
        targets = record.get("targets")
        beside = {name: record[name] for name in _OF_TARGET if record.get(name) is not None}
        if targets is None:
            targets = [{"start": 0, "end": len(known["text"]), **beside}] if {"box", "mask"} & set(beside) else []
        elif beside and (len(targets) != 1 or any(targets[0].get(name) != value for name, value in beside.items())):
            raise ValueError(
                f"{', '.join(beside)} of a record must be those of its only target, but they are others. Change them "
                "under targets, or leave targets out."
            )
        known["targets"] = tuple(GroundedTarget.from_dict(target, known["image_size"]) for target in targets)
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
        """The image with the answer in it: its objects if there are any (`draw_objects`), with the answer below where
        its phrases name them; else every word joined to its place and the caption below (`draw_caption`).

        image: the original image, as the processor takes it.
        """
        spans = [(target.start, target.end) for target in self.targets]
        if any(span != (0, len(self.text)) for span in spans):
            return draw_results(image, [self], sentence=(self.text, spans), **options)
        if self.targets:
            return draw_results(image, [self], **options)
        pixels = _pixels_of(image, self.image_size)
        return draw_caption(
            pixels,
            self.text,
            self.placed_words,
            prompt_box=self.prompt_box,
            prompt_points=self.prompt_points,
            **options,
        )


def draw_results(image: Any, results: Sequence[GroundedCaption], **options: Any) -> Image.Image:
    """The image with all its results as objects: masks, boxes and what they are called; see `draw_objects`.

    image: the original image, as the processor takes it. Results without a place of their own are only listed.
    """
    pixels = read_image(image).pixels if not results else _pixels_of(image, results[0].image_size)
    return draw_objects(pixels, [thing for result in results for thing in objects_of(result)], **options)


def _pixels_of(image: Any, size_wh: tuple[int, int]) -> Image.Image:
    pixels = read_image(image).pixels
    if pixels.size != tuple(size_wh):
        raise ValueError(
            f"the caption belongs to an image of {size_wh[0]} x {size_wh[1]} pixels, but this one "
            f"is {pixels.size[0]} x {pixels.size[1]}. Pass the image that went into the processor."
        )
    return pixels


def ground_words(
    spanned: SpannedText,
    coordinates: np.ndarray | None,
    log_probs: np.ndarray | None,
    transform: CanvasTransform,
    *,
    coordinate_scales: np.ndarray | None = None,
    visual_probs: np.ndarray | None = None,
) -> tuple[GroundedWord, ...]:
    """Merge what the tokens say into words.

    coordinates (T,P,2) normalized xy of the unpadded image, their coordinate_scales (T,P,2), log_probs (T,) and
    visual_probs (T,) belong to the tokens of `spanned`; NaN and None mean unknown.
    """
    words = []
    for span in spanned.words():
        tokens = list(span.tokens)
        point, box, spread, visual = None, None, None, None
        if coordinates is not None and tokens:
            point, box = location_of(coordinates[tokens], transform)
            if coordinate_scales is not None:
                spread = spread_of(coordinates[tokens], coordinate_scales[tokens], transform)
        if visual_probs is not None and tokens:
            said = visual_probs[tokens][np.isfinite(visual_probs[tokens])]
            visual = float(said[-1]) if said.size else None
        score = mean_probability(log_probs[tokens]) if log_probs is not None else None
        text = spanned.text[span.start : span.end]
        words.append(GroundedWord(text, span.start, span.end, point, box, score, spread, visual))
    return tuple(words)


def spread_of(coordinates: np.ndarray, scales: np.ndarray, transform: CanvasTransform) -> BoxXYXY | None:
    """How far off the sides of `location_of`'s box are: of each the scale (…,2) of the point (…,2) it goes through.

    Both normalized -> pixels of the image, in the order of the box; None without a finite point.
    """
    points, scales = (np.asarray(values, dtype=np.float64).reshape(-1, 2) for values in (coordinates, scales))
    finite = np.isfinite(points).all(axis=1) & np.isfinite(scales).all(axis=1)
    if not finite.any():
        return None
    points, scales = points[finite], scales[finite] * transform.image_size_wh
    first, last = points.argmin(axis=0), points.argmax(axis=0)
    x0, y0, x1, y1 = (float(scales[chosen[axis], axis]) for chosen in (first, last) for axis in (0, 1))
    return x0, y0, x1, y1


def location_of(coordinates: np.ndarray, transform: CanvasTransform) -> tuple[Point | None, BoxXYXY | None]:
    """Smallest box around the finite points (…,2), normalized -> its centre and itself, pixels within the image."""
    points = np.asarray(coordinates, dtype=np.float64).reshape(-1, 2)
    points = points[np.isfinite(points).all(axis=1)]
    if not len(points):
        return None, None
    points = transform.clip_to_image(transform.normalized_to_image(points))
    (x0, y0), (x1, y1) = points.min(axis=0).tolist(), points.max(axis=0).tolist()
    return ((x0 + x1) / 2, (y0 + y1) / 2), (x0, y0, x1, y1)


def box_on_image(box: np.ndarray, transform: CanvasTransform) -> BoxXYXY | None:
    """box (4,) xyxy, normalized -> pixels within the image; None if it is not finite."""
    return location_of(box, transform)[1] if np.isfinite(box).all() else None


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
    "GroundedTarget",
    "GroundedWord",
    "box_on_image",
    "draw_results",
    "ground_words",
    "location_of",
    "mean_probability",
    "spread_of",
]
