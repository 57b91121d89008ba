"""Images and what is known of them, which is what the tasks ask about and score against."""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from pixelllm_hf.processing.canvas_transform import BoxXYWH
from pixelllm_hf.processing.image_reading import readable_formats


class EvaluationDataError(ValueError):
    """Annotations that nothing can be measured on."""


@dataclass(frozen=True, eq=False)
class StoredFile:
    """An image file inside row `index` of a data set; opened as a `Path` is, and read each time."""

    rows: Any
    index: int

    def open(self, mode: str = "rb") -> BinaryIO:
        return BytesIO(self.rows[self.index]["image"]["bytes"])


@dataclass(frozen=True, eq=False)
class EvaluationImage:
    """One image to ask about; what is known of it is in the subclasses."""

    image_id: str
    file: Path | StoredFile

    def open(self) -> Image.Image:
        """Decoded in full and not kept: a validation set may be large."""
        with self.file.open("rb") as stream, Image.open(stream, formats=readable_formats()) as image:
            image.load()
        return image


@dataclass(frozen=True, eq=False)
class EvaluationScene(EvaluationImage):
    """An image and what is in it. boxes (O,4) xyxy pixels of the image, one per entry of `names`."""

    names: tuple[str, ...]
    boxes: np.ndarray


@dataclass(frozen=True)
class Expression:
    """id counts from 1: official ids of 0 mean padding. box xywh.

    has_distractor: others of its class are there; is_seen_class: the model was trained on the name of its class;
    None if unknown.
    """

    id: int
    text: str
    box: BoxXYWH
    segmentation: Any
    has_distractor: bool | None
    is_seen_class: bool | None = None


@dataclass(frozen=True, eq=False)
class ReferredImage(EvaluationImage):
    """An image and the expressions that refer to things in it."""

    size_hw: tuple[int, int]
    expressions: tuple[Expression, ...]


@dataclass(frozen=True)
class Region:
    """box xywh, pixels of the image."""

    box: BoxXYWH
    phrase: str


@dataclass(frozen=True, eq=False)
class DescribedImage(EvaluationImage):
    """An image and its described regions, perhaps none. `size_wh` bounds the boxes that can be asked about."""

    size_wh: tuple[int, int]
    regions: tuple[Region, ...]


@dataclass(frozen=True, eq=False)
class CaptionedImage(EvaluationImage):
    """An image, what people say about it, and the names of what is in it (None if unknown)."""

    captions: tuple[str, ...]
    names: frozenset[str] | None


@dataclass(frozen=True)
class CategorisedObject:
    """name: of its category. box xywh, pixels of the image, as annotated. crowd: it stands for several objects."""

    name: str
    box: BoxXYWH
    crowd: bool
    segmentation: Any


@dataclass(frozen=True, eq=False)
class CategorisedImage(EvaluationImage):
    """An image and all its objects of known categories. `size_wh` is what it was annotated at."""

    size_wh: tuple[int, int]
    objects: tuple[CategorisedObject, ...]
