"""Answers in files: lines of records, one COCO annotation file, or a labelme file for each picture."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from pixelllm_hf.files import atomic_text

from .errors import UsageError
from .pictures import Inputs

if TYPE_CHECKING:
    from pixelllm_hf.processing.grounded_results import GroundedCaption

FORMATS = ("plain", "coco", "labelme")


class Records(Protocol):
    """Where answers are written to."""

    def add(self, picture: Path, results: Sequence[GroundedCaption]) -> None:
        """The answers about one picture."""

    def add_failure(self, name: str, problem: str) -> None:
        """An input without an answer."""


class NoRecords:
    def add(self, picture: Path, results: Sequence[GroundedCaption]) -> None:
        """Nothing is written."""

    def add_failure(self, name: str, problem: str) -> None:
        """Nothing is written."""


class PlainLines:
    """A line of JSON for every result and every failed input."""

    def __init__(self, file: TextIO):
        self.file = file

    def add(self, picture: Path, results: Sequence[GroundedCaption]) -> None:
        for result in results:
            self._write({"image": str(picture), **result.to_dict()})

    def add_failure(self, name: str, problem: str) -> None:
        self._write({"image": name, "error": problem})

    def _write(self, record: dict[str, Any]) -> None:
        self.file.write(json.dumps(record, ensure_ascii=False) + "\n")


class CocoFile:
    """The pictures and all that was found in them; failed inputs are not in it.

    The number in a picture's name is its id, if all have different ones; else they are counted from 1.
    """

    def __init__(self, pictures: Sequence[Path]):
        from pixelllm_hf.processing.result_exports import image_id_of

        ids: list[int | str] = [image_id_of(picture) for picture in pictures]
        if len(set(ids)) < len(ids) or not all(isinstance(i, int) for i in ids):
            ids = list(range(1, len(pictures) + 1))
        self.ids = dict(zip(pictures, ids, strict=True))
        self.results: dict[Path, Sequence[GroundedCaption]] = {}

    def add(self, picture: Path, results: Sequence[GroundedCaption]) -> None:
        self.results[picture] = results

    def add_failure(self, name: str, problem: str) -> None:
        pass

    def content(self) -> dict[str, Any]:
        from pixelllm_hf.processing.result_exports import coco_annotations

        pictures = list(self.results)
        return coco_annotations(
            list(self.results.values()),
            [self.ids[picture] for picture in pictures],
            [picture.name for picture in pictures],
            [_size(picture, self.results[picture]) for picture in pictures],
        )


class LabelmeFiles:
    """A labelme file for each picture, which points to it."""

    def __init__(self, path: Path, is_folder: bool):
        self.path, self.is_folder = path, is_folder
        self.taken: set[Path] = set()

    def add(self, picture: Path, results: Sequence[GroundedCaption]) -> None:
        from pixelllm_hf.processing.result_exports import labelme_record

        target, number = self.path / f"{picture.stem}.json" if self.is_folder else self.path, 2
        while target in self.taken:
            target, number = target.with_name(f"{picture.stem}-{number}.json"), number + 1
        self.taken.add(target)
        try:
            place = os.path.relpath(picture, target.parent)
        except ValueError:  # on another drive
            place = str(picture.resolve())
        record = labelme_record(results, place, image_size=_size(picture, results))
        with atomic_text(target) as file:
            json.dump(record, file, ensure_ascii=False, indent=2)

    def add_failure(self, name: str, problem: str) -> None:
        pass


@contextmanager
def open_records(path: Path | None, form: str, inputs: Inputs) -> Iterator[Records]:
    """The records of one run of a command; a file is there whole afterwards, or not at all. None: nowhere."""
    if path is None:
        yield NoRecords()
        return
    if form == "labelme":
        yield _labelme(path, inputs)
        return
    if form == "coco":
        coco = CocoFile(inputs.files)
        yield coco
        with atomic_text(path) as file:
            json.dump(coco.content(), file, ensure_ascii=False)
        return
    with atomic_text(path) as file:
        yield PlainLines(file)


def check_records(path: Path | None, form: str, inputs: Inputs) -> None:
    """A `UsageError` for what cannot be written, before any work is done."""
    if path is None:
        if form != "plain":
            raise UsageError(f"--format {form} is about what --json writes; add --json.")
        return
    if form == "labelme":
        _labelme(path, inputs)
    elif path.is_dir() or not path.parent.is_dir():
        raise UsageError(f"--json needs a file in an existing folder, but it is {str(path)!r}.")


def _labelme(path: Path, inputs: Inputs) -> LabelmeFiles:
    """A path without a suffix is a folder."""
    is_folder = path.is_dir() or not path.suffix
    if inputs.many and not is_folder:
        raise UsageError(
            f"--format labelme writes a file for each picture; give --json a folder instead of {str(path)!r}."
        )
    try:
        (path if is_folder else path.parent).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--json: the folder for {path} cannot be made ({error}).") from error
    return LabelmeFiles(path, is_folder)


def _size(picture: Path, results: Sequence[GroundedCaption]) -> tuple[int, int]:
    """(width, height), from the picture itself if nothing was found in it."""
    if results:
        return results[0].image_size
    from pixelllm_hf.processing.image_reading import read_image

    return read_image(picture).pixels.size
