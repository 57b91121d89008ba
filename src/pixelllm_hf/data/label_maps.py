"""Semantic segmentation as one PNG of class numbers an image -> rows of task "reason": ADE20K, COCO-Stuff, Mapillary.

Sources: ADE20K's scene parsing benchmark (0 is nothing, names in `objectInfo150.txt`), COCO-Stuff's pixel maps (255 is
nothing, names in `labels.txt`) and Mapillary Vistas 2.0 (names in `config_v2.0.json`). PixelLM (arXiv 2312.02228) and
LISA train on them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, IterableDataset
from PIL import Image

from pixelllm_hf.data.annotation_text import first_character, load_json, read_lines
from pixelllm_hf.data.bad_records import AnnotationFileError, BadRecordError, OnError, ReadReport, check_on_error
from pixelllm_hf.data.coco_objects import spoken_name
from pixelllm_hf.data.grounded_examples import build_dataset, grounded_row
from pixelllm_hf.data.image_folder import ImageFolder
from pixelllm_hf.data.named_objects import NamedObject, name_questions
from pixelllm_hf.data.record_fields import checked_text, shown
from pixelllm_hf.processing.mask_codec import MAX_MASK_PIXELS, encode_rle

_NO_NAMES = ("unlabeled", "unlabelled", "void", "background")


@dataclass(frozen=True)
class LabelMaps:
    """A layout. first: the value of a pixel of the class with the number 1. nothing: the value of no class.

    subdivisions: classes with a hyphen in their name are asked about; COCO-Stuff's are not, as released.
    """

    first: int
    nothing: int
    subdivisions: bool = True


def read_label_maps(
    annotations: str | Path,
    images: str | Path,
    *,
    layout: LabelMaps,
    classes: str | Path | None = None,
    split: str | None = None,
    streaming: bool = False,
    on_error: OnError = "raise",
    check_images: bool = False,
    report: ReadReport | None = None,
) -> Dataset | IterableDataset:
    """Rows of task "reason", one per map: questions about its classes, see `named_objects.name_questions`.

    annotations: the folder of PNGs. images: those of the same names. split: folders of this name in both.
    classes: the names. ADE20K's and COCO-Stuff's own list, Mapillary's config, or a text file of one name a line, of
        which the first has the number 1.
    """
    check_on_error(on_error)
    folder = Path(annotations) if split is None else Path(annotations) / split
    if split is not None and not folder.is_dir():
        there = sorted(path.name for path in Path(annotations).glob("*") if path.is_dir())
        raise AnnotationFileError(
            f"{annotations} has no split {split!r}; it has {', '.join(there) or 'none at all'}. Name a folder of PNGs."
        )
    files = sorted(folder.glob("*.png"))
    if not files:
        raise AnnotationFileError(f"{folder} holds no PNG. Give the folder of maps, or a split in it.")
    if classes is None:
        raise ValueError("a map holds numbers: pass the file of their names as classes='…'.")
    names = {number - 1 + layout.first: name for number, name in class_names(classes).items()}
    unasked = {value for value, name in names.items() if name in _NO_NAMES or "-" in name and not layout.subdivisions}
    nothing = {layout.nothing, *unasked}
    inside = Path(images) if split is None or not (Path(images) / split).is_dir() else Path(images) / split
    found = ImageFolder(inside, check=check_images)

    def rows(report: ReadReport) -> Iterator[dict[str, Any]]:
        for file in files:
            report.read["images"] += 1
            try:
                values = _values(file)
                size_wh = values.shape[1], values.shape[0]
                path = found.find(str(file), file.stem, f"{file.stem}.jpg", size_wh=size_wh)
                objects = list(_objects(file, values, names, nothing, report, on_error))
            except BadRecordError as error:
                report.drop(error, on_error)
                continue
            prompts = name_questions(objects, file.stem, report, on_error)
            if prompts:
                yield grounded_row(path, file.stem, size_wh, "reason", prompts)
            else:
                report.leave_out("image without objects", f"{file} has no class to ask about.")

    return build_dataset(rows, streaming=streaming, report=report)


read_ade20k = partial(read_label_maps, layout=LabelMaps(first=1, nothing=0))
read_coco_stuff = partial(read_label_maps, layout=LabelMaps(first=0, nothing=255, subdivisions=False))
read_mapillary = partial(read_label_maps, layout=LabelMaps(first=0, nothing=255))


def class_names(path: str | Path) -> dict[int, str]:
    """Number, from 1 -> name of a class.

    A list or Mapillary's `labels` as JSON, or lines "3: car", "3<tab>…<tab>name" (ADE20K's table) or "name". A name
    of several words for a class ("door;double door") is the first of them.
    """
    kind = first_character(path)
    if kind in ("[", "{"):
        content = load_json(path, list if kind == "[" else dict)
        entries = content if isinstance(content, list) else content.get("labels")
        if not isinstance(entries, list):
            raise AnnotationFileError(f"{path} needs a list of labels, but it is {shown(entries)}.")
        listed = [entry.get("readable", entry.get("name")) if isinstance(entry, dict) else entry for entry in entries]
        numbered: list[tuple[int, Any]] = list(enumerate(listed, 1))
    else:
        numbered = _numbered_lines(path)
    try:
        names = {n: _spoken(checked_text(f"{path}, class {n}", name, "a name")) for n, name in numbered}
    except BadRecordError as error:
        raise AnnotationFileError(str(error)) from error
    if not names:
        raise AnnotationFileError(f"{path} names no class.")
    return names


def _numbered_lines(path: str | Path) -> list[tuple[int, str]]:
    lines = [line.strip() for _, line in read_lines(path, ReadReport(), "raise") if line.strip()]
    found = []
    for place, line in enumerate(lines, 1):
        if match := re.fullmatch(r"(\d{1,6}):\s*(.+)", line):
            found.append((int(match[1]), match[2]))
        elif match := re.fullmatch(r"(\d{1,6})\t.*?([^\t]+)", line):
            found.append((int(match[1]), match[2]))
        elif "\t" not in line:
            found.append((place, line))
    return [(number, name) for number, name in found if number > 0]  # COCO-Stuff's "0: unlabeled"


def _spoken(name: str) -> str:
    """
    >>> _spoken("door;double door"), _spoken("wall, brick"), _spoken("Traffic Light")
    ('door', 'wall', 'traffic light')
    """
    return re.split(r"[;,]", name)[0].strip().lower() or name


def _values(file: Path) -> np.ndarray:
    """The numbers (H, W) of a PNG, which may have a palette, 8 or 16 bits; colours are none."""
    try:
        with Image.open(file, formats=["PNG"]) as image:
            if image.width * image.height > MAX_MASK_PIXELS:
                raise ValueError(f"it claims {image.width} x {image.height} pixels")
            if image.mode not in ("L", "P", "I;16", "I"):
                raise ValueError(f"its pixels are colours of the mode {image.mode!r}, and no numbers")
            return np.asarray(image).astype(np.int64)
    except Exception as error:  # Pillow raises nearly anything on a damaged file
        problem = f"the map cannot be read ({error})."
        raise BadRecordError("unreadable map", str(file), problem, "Replace it.") from error


def _objects(
    file: Path, values: np.ndarray, names: dict[int, str], nothing: set[int], report: ReadReport, on_error: OnError
) -> Iterator[NamedObject]:
    for value in np.unique(values).tolist():
        if value in nothing:
            continue
        where = f"{file}, class value {value}"
        if value not in names:
            error = BadRecordError("unknown category", where, "no class has this value.", "Pass the matching list.")
            report.drop(error, on_error)
            continue
        inside = values == value
        rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
        box = [float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)]
        yield NamedObject(where, spoken_name(names[value]), box, partial(_packed, inside))


def _packed(inside: np.ndarray, report: ReadReport, on_error: OnError) -> dict[str, Any]:
    return encode_rle(inside)
