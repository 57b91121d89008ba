"""Results in the files of object-detection data sets, and as `supervision.Detections`.

An object is what a result is about if it has a box or a mask, under the text that names it; of a caption of the whole
image each word with a box, as in LabelMe files. Functions read results by their fields (see `GroundedCaption`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any
from xml.etree import ElementTree

import numpy as np

from .grounded_targets import objects_of
from .mask_codec import mask_to_polygons

_NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True)
class _Thing:
    """One object: box xyxy and mask (H,W) in the image, score 0..1 or None."""

    text: str
    box: Sequence[float]
    mask: np.ndarray | None
    score: float | None


def _things(results: Sequence[Any]) -> Iterator[_Thing]:
    for result in results:
        placed = [thing for thing in objects_of(result) if thing.is_placed]
        yield from (_Thing(thing.text, thing.bounds, thing.mask, thing.score) for thing in placed)
        if not placed and not result.prompt_points:
            words = [word for word in result.placed_words if word.box is not None]
            yield from (_Thing(word.text, word.box, None, word.score) for word in words)


def yolo_classes(results: Sequence[Sequence[Any]]) -> list[str]:
    """The texts of all objects in the order of their first appearance: the classes of a YOLO data set.

    results: a list for each image, as post-processing gives.
    """
    return list(dict.fromkeys(thing.text for row in results for thing in _things(row)))


def yolo_labels(results: Sequence[Any], classes: Sequence[str] | Mapping[str, int], *, image_size: Any) -> list[str]:
    """The lines of one image's label file; image_size is (width, height), classes are names in the order of their ids.

    An object with a mask is "class x y x y …", its outline with holes filled and parts joined by lines of no width;
    else "class x y w h" of its box's centre and size. All 0..1 of the image. Boxes of no area are left out.
    """
    width, height = image_size
    ids = classes if isinstance(classes, Mapping) else {name: i for i, name in enumerate(classes)}
    lines = []
    for thing in _things(results):
        if thing.text not in ids:
            raise ValueError(f"{thing.text!r} is not among the classes. Make them of all results, with yolo_classes.")
        x0, y0, x1, y1 = np.clip(np.asarray(thing.box, float) / (width, height, width, height), 0, 1)
        outlines = [] if thing.mask is None else mask_to_polygons(thing.mask)
        if outlines:
            values = np.clip(np.reshape(_one_outline(outlines), (-1, 2)) / (width, height), 0, 1).ravel()
        elif x1 > x0 and y1 > y0:
            values = np.array([(x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0])
        else:
            continue
        lines.append(" ".join([str(ids[thing.text]), *(f"{value:.6f}" for value in values)]))
    return lines


def _one_outline(outlines: Sequence[Sequence[float]]) -> list[float]:
    """Each part is walked around from and back to its first corner; the ways from part to part enclose nothing."""
    first, *others = (list(outline) for outline in outlines)
    walk = [*first, *first[:2]] if others else first
    for outline in others:
        walk += [*outline, *outline[:2]]
    for outline in reversed(others[:-1]):  # back on the same ways
        walk += outline[:2]
    return walk


def pascal_voc_annotation(results: Sequence[Any], file_name: str, *, image_size: tuple[int, int]) -> str:
    """The Pascal VOC XML of one image; file_name with "/" from the data set's folder, image_size is (width, height).

    Boxes are whole pixels counted from 1, the last one within, as in the official files; masks are left out.
    """
    width, height = image_size
    place = PurePosixPath(file_name)
    root = ElementTree.Element("annotation")
    folder = str(place.parent)
    _add(root, folder="" if folder == "." else folder, filename=place.name)
    _add(ElementTree.SubElement(root, "source"), database="pixelllm_hf")
    _add(ElementTree.SubElement(root, "size"), width=width, height=height, depth=3)
    _add(root, segmented=0)
    for thing in _things(results):
        x0, y0, x1, y1 = thing.box
        entry = ElementTree.SubElement(root, "object")
        _add(entry, name=thing.text, pose="Unspecified", truncated=0, difficult=0)
        xmin, ymin = min(math.floor(x0) + 1, width), min(math.floor(y0) + 1, height)
        xmax, ymax = max(math.ceil(x1), xmin), max(math.ceil(y1), ymin)
        _add(ElementTree.SubElement(entry, "bndbox"), xmin=xmin, ymin=ymin, xmax=xmax, ymax=ymax)
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode") + "\n"


def _add(parent: ElementTree.Element, **entries: object) -> None:
    for name, value in entries.items():
        ElementTree.SubElement(parent, name).text = _NO_XML.sub("\ufffd", str(value))


def to_supervision(results: Sequence[Any]) -> Any:
    """The objects of one image as `supervision.Detections`: xyxy, confidence, class_id, data["class_name"], and mask.

    Classes are the texts, numbered as they come. confidence is NaN where no score is known, and masks are empty where
    an object has none beside others that do. Needs the package supervision: pip install "pixelllm_hf[supervision]".
    """
    try:
        import supervision
    except ImportError as error:
        raise ImportError('to_supervision needs supervision. Run: pip install "pixelllm_hf[supervision]"') from error
    things = list(_things(results))
    if not things:
        return supervision.Detections.empty()
    names = list(dict.fromkeys(thing.text for thing in things))
    masks, shape = None, next((thing.mask.shape for thing in things if thing.mask is not None), None)
    if shape is not None:
        masks = np.stack([np.zeros(shape, bool) if thing.mask is None else thing.mask for thing in things])
    scores = [math.nan if thing.score is None else thing.score for thing in things]
    return supervision.Detections(
        xyxy=np.array([thing.box for thing in things], np.float32),
        mask=masks,
        confidence=np.array(scores, np.float32),
        class_id=np.array([names.index(thing.text) for thing in things], int),
        data={"class_name": np.array([thing.text for thing in things])},
    )


__all__ = ["pascal_voc_annotation", "to_supervision", "yolo_classes", "yolo_labels"]
