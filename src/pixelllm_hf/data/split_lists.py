"""Data sets with a file an image: which images there are, and the lists of ids that are their splits."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from pixelllm_hf.data.annotation_text import read_lines
from pixelllm_hf.data.bad_records import AnnotationFileError, BadRecordError, OnError, ReadReport
from pixelllm_hf.data.record_fields import checked_string, checked_text, shown


def needed_folder(root: str | Path, name: str, layout: str) -> Path:
    """The folder `name` of the data set at `root`; without it the data set is in another layout."""
    folder = Path(root) / name
    if not Path(root).is_dir():
        raise FileNotFoundError(f"the folder {str(root)!r} does not exist. Pass the one that holds {name!r}.")
    if not folder.is_dir():
        raise AnnotationFileError(f"{str(root)!r} has no folder {name!r}, as {layout} has. Pass the folder of both.")
    return folder


def listed_ids(
    records: Path, lists: Path, split: str | None, report: ReadReport, on_error: OnError
) -> Iterator[tuple[str, str]]:
    """Where it is listed and the id of every image: those of the list `lists`/`split`.txt, or all of `records`.

    records: the folder whose files are called after the images. A split that has no list is an `AnnotationFileError`
    that names those that have. An id that comes twice is used once.
    """
    if split is None:
        for path in sorted(records.iterdir()):
            if path.suffix not in (".txt", ".xml") or path.name.startswith("."):
                continue
            try:
                checked_string(str(path), path.stem, "the id of an image")
            except BadRecordError as error:
                report.drop(error, on_error)
                continue
            yield str(path), path.stem
        return
    known = sorted(path.stem for path in lists.glob("*.txt")) if lists.is_dir() else []
    if split not in known:
        raise AnnotationFileError(
            f"{str(lists)!r} has no split {split!r}; it has {', '.join(known) or 'none at all'}. Name one of them, or "
            "leave the split out."
        )
    seen: set[str] = set()
    for where, line in read_lines(lists / f"{split}.txt", report, on_error):
        if not line.strip():
            continue
        try:
            image_id = _id(where, line)
            if image_id in seen:
                raise BadRecordError("repeated id", where, f"{shown(image_id)} was listed before.", "Remove one.")
        except BadRecordError as error:
            report.drop(error, on_error)
            continue
        seen.add(image_id)
        yield where, image_id


def _id(where: str, line: str) -> str:
    text = checked_text(where, line, "the id of an image")
    # An id with a mark of 1, 0 or -1 stands in a list of a class: most of its images do not show the class.
    marked = re.search(r"\s-?[01]$", text)
    if marked or "\0" in text or text.startswith(".") or Path(text).name != text or "\\" in text:
        problem = f"a line must be the id of an image, which its files are called after, but it is {shown(text)}."
        raise BadRecordError("malformed list", where, problem, "Name a list of images alone, like train.txt.")
    return text
