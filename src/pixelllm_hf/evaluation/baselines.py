"""What can be answered without the model: rows to compare its numbers with.

Each baseline has a caption for an image, a box for a word, a name for a box, and objects with names:

 - "chance": a caption of another image, a random box, a name as often as it is annotated;
 - "fixed": the same for every image: the most frequent caption and name of the data itself, and the central box that
    leaves out a tenth of each side;
 - "teacher": a detector's boxes and names alone. A word has the surest box of the category that it names by the table
    of `category_names` (the box around all of them where it is a plural), and else the fixed box. No captions.

Boxes are xyxy in shares of the image's sides, scores 0..1.
"""

from __future__ import annotations

import zlib
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from pixelllm_hf.evaluation.box_iou import box_iou_matrix
from pixelllm_hf.evaluation.category_names import categories_named
from pixelllm_hf.evaluation.images import EvaluationImage
from pixelllm_hf.evaluation.object_detector import Detection, ObjectDetector
from pixelllm_hf.processing.canvas_transform import BoxXYXY, xyxy_to_xywh
from pixelllm_hf.processing.grounded_results import GroundedCaption, GroundedWord
from pixelllm_hf.processing.word_spans import SpannedText

KINDS = ("chance", "fixed", "teacher")
CENTRAL: BoxXYXY = (0.1, 0.1, 0.9, 0.9)
_SURE = 0.1  # least score of a detection that a word may mean
_ALSO_MEANT = 0.3  # of the best score: what a plural means too
_IRREGULAR = frozenset("people men women children geese oxen sheep cattle skis scissors".split())


class BaselineError(ValueError):
    """A baseline that there is not, or not for a task."""


class Baseline(ABC):
    """names: of all annotated objects of the data, as often as they are there; empty where captions are measured."""

    def __init__(self, names: Sequence[str] = ()):
        self.names = list(names)

    @abstractmethod
    def caption(self, image: EvaluationImage, references: Mapping[str, Sequence[str]]) -> str:
        """A caption of the image. references: what people say, by the ids of all images."""

    @abstractmethod
    def box(self, image: EvaluationImage, word: str) -> BoxXYXY:
        """Where a word of the image's caption is."""

    @abstractmethod
    def named(self, image: EvaluationImage, box: BoxXYXY) -> str:
        """What is in a box."""

    @abstractmethod
    def objects(self, image: EvaluationImage) -> list[Detection]:
        """What is in the image, and where."""


class Chance(Baseline):
    """The same answers in every run: each image has its own random numbers."""

    def caption(self, image: EvaluationImage, references: Mapping[str, Sequence[str]]) -> str:
        others = sorted(image_id for image_id in references if image_id != image.image_id) or [image.image_id]
        random = _random(image, "caption")
        captions = references[others[random.integers(len(others))]]
        return captions[int(random.integers(len(captions)))]

    def box(self, image: EvaluationImage, word: str) -> BoxXYXY:
        return _random_box(_random(image, word))

    def named(self, image: EvaluationImage, box: BoxXYXY) -> str:
        return self.names[_random(image, repr(box)).integers(len(self.names))]

    def objects(self, image: EvaluationImage) -> list[Detection]:
        random = _random(image, "objects")
        return [
            Detection(self.names[random.integers(len(self.names))], float(random.random()), _random_box(random))
            for _ in range(10)
        ]


class Fixed(Baseline):
    """The most frequent answer, ties broken by the alphabet."""

    _said: tuple[Mapping[str, Sequence[str]], str] | None = None

    def caption(self, image: EvaluationImage, references: Mapping[str, Sequence[str]]) -> str:
        if self._said is None or self._said[0] is not references:
            self._said = references, _most_frequent([text for texts in references.values() for text in texts])
        return self._said[1]

    def box(self, image: EvaluationImage, word: str) -> BoxXYXY:
        return CENTRAL

    def named(self, image: EvaluationImage, box: BoxXYXY) -> str:
        return _most_frequent(self.names)

    def objects(self, image: EvaluationImage) -> list[Detection]:
        return [Detection(_most_frequent(self.names), 1.0, CENTRAL)]


class Teacher(Baseline):
    """The detector's."""

    def __init__(self, detector: ObjectDetector, names: Sequence[str] = ()):
        super().__init__(names)
        self.detector = detector
        self._seen: tuple[str, list[Detection]] | None = None

    def caption(self, image: EvaluationImage, references: Mapping[str, Sequence[str]]) -> str:
        raise BaselineError("a detector says no captions; take the baseline 'fixed' or 'chance' for this task.")

    def box(self, image: EvaluationImage, word: str) -> BoxXYXY:
        meant = categories_named(word)
        found = [d for d in self.objects(image) if d.name in meant and d.score > _SURE]
        if not found:
            return CENTRAL
        best = max(found, key=lambda d: d.score)
        if not is_plural(word):
            return best.box
        boxes = np.array([d.box for d in found if d.score > _ALSO_MEANT * best.score])
        return tuple(np.concatenate([boxes[:, :2].min(0), boxes[:, 2:].max(0)]).tolist())  # type: ignore[return-value]

    def named(self, image: EvaluationImage, box: BoxXYXY) -> str:
        found = self.objects(image)
        if not found:
            return _most_frequent(self.names)
        ious = box_iou_matrix(xyxy_to_xywh([box]), xyxy_to_xywh([d.box for d in found]))[0]
        return found[int((ious * np.sqrt([d.score for d in found])).argmax())].name

    def objects(self, image: EvaluationImage) -> list[Detection]:
        if self._seen is None or self._seen[0] != image.image_id:
            self._seen = image.image_id, self.detector.detect(image.open())
        return self._seen[1]


def baseline(kind: str, *, names: Sequence[str] = (), detector: ObjectDetector | None = None) -> Baseline:
    """The baseline of this kind; "teacher" needs a detector."""
    if kind not in KINDS:
        raise BaselineError(f"the baselines are {', '.join(KINDS)}, but {kind!r} was asked for.")
    if kind != "teacher":
        return (Chance if kind == "chance" else Fixed)(names)
    if detector is None:
        raise BaselineError("the baseline 'teacher' needs a detector: name its weights with --teacher.")
    return Teacher(detector, names)


def caption_of_words(text: str, boxes: Sequence[BoxXYXY | None]) -> GroundedCaption:
    """A caption whose words between blanks have these boxes, of an image of 1 x 1."""
    spans, words, position = SpannedText(text, []).words(), [], 0
    for piece, box in zip(text.split(), boxes, strict=True):
        start = text.index(piece, position)
        position = start + len(piece)
        point = None if box is None else ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
        words += [
            GroundedWord(text[s.start : s.end], s.start, s.end, point, box)
            for s in spans
            if start <= s.start < position
        ]
    return GroundedCaption(text, tuple(words), (1, 1))


def is_plural(word: str) -> bool:
    """Whether a noun looks like a plural.

    >>> is_plural("dogs"), is_plural("women"), is_plural("grass")
    (True, True, False)
    """
    return word in _IRREGULAR or (word.endswith("s") and not word.endswith("ss"))


def _most_frequent(texts: Sequence[str]) -> str:
    counted = Counter(texts)
    return min(counted, key=lambda text: (-counted[text], text))


def _random(image: EvaluationImage, about: str) -> np.random.Generator:
    return np.random.default_rng([zlib.crc32(image.image_id.encode()), zlib.crc32(about.encode())])


def _random_box(random: np.random.Generator) -> BoxXYXY:
    """Two corners, each anywhere."""
    (x0, x1), (y0, y1) = np.sort(random.random((2, 2)), axis=1).tolist()
    return x0, y0, x1, y1
