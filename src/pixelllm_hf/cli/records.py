"""Answers in files: where `--json` and `--format` say that they go."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pixelllm_hf.files import is_stream
from pixelllm_hf.inference import Request

from .errors import UsageError
from .images import STDIN, ImageInput, Inputs, names_from_root
from .record_files import FILE_PER_IMAGE, CocoFile, YoloFolder
from .record_lines import LineFile, Records, is_stdout
from .resuming import read_earlier, rewrite

if TYPE_CHECKING:
    from pixelllm_hf.processing.grounded_results import GroundedCaption

FORMATS: Mapping[str, str] = {
    "plain": "plain: lines of records",
    "coco": "coco: one annotation file",
    "narratives": "narratives: lines of Localized Narratives",
    "labelme": "labelme: a file for each image",
    "voc": "voc: Pascal VOC's XML for each image",
    "yolo": "yolo: a folder with labels and classes",
}
_LINES = ("plain", "narratives")


class PlainLines(Records):
    """A line of JSON for every result and every failed input."""

    def __init__(self, file: LineFile):
        self.file = file

    def resume(self, request: Request) -> set[str]:
        """The names of the images that an interrupted run has answered; what else it left is taken out."""
        earlier = read_earlier(self.file.path, request)
        if not earlier.is_whole:
            rewrite(self.file.path, earlier)
            self.file.reopen()
        return earlier.done

    def add(self, image: ImageInput, results: Sequence[GroundedCaption]) -> None:
        self.file.write([{"image": image.name, **result.to_dict()} for result in results])

    def add_failure(self, **record: str) -> None:
        self.file.write([record])

    def close(self, *, failed: bool) -> None:
        self.file.close(failed=failed)


class NarrativeLines(Records):
    """A line of Localized Narratives for every text whose words have locations."""

    def __init__(self, file: LineFile, images: Sequence[ImageInput]):
        from pixelllm_hf.processing.result_exports import image_id_of

        self.file = file
        self.ids: dict[ImageInput, Any] = {i: image_id_of(name) for i, name in names_from_root(images).items()}
        if len(set(self.ids.values())) < len(self.ids):
            self.ids = dict(names_from_root(images))

    def add(self, image: ImageInput, results: Sequence[GroundedCaption]) -> None:
        from pixelllm_hf.processing.result_exports import narrative_records

        self.file.write(narrative_records([results], [self.ids[image]]))

    def close(self, *, failed: bool) -> None:
        self.file.close(failed=failed)


@contextmanager
def open_records(path: Path | None, form: str, inputs: Inputs, *, resume: bool = False) -> Iterator[Records]:
    """The records of one run of a command. Lines are written as they come; what an interrupted run has got stays."""
    records = _records(path, form, inputs, resume)
    try:
        yield records
    except BaseException:
        records.close(failed=True)
        raise
    records.close(failed=False)


def _records(path: Path | None, form: str, inputs: Inputs, resume: bool) -> Records:
    if path is None:
        return Records()
    if form == "plain":
        return PlainLines(LineFile(path, keep=resume))
    if form == "narratives":
        return NarrativeLines(LineFile(path), inputs.images)
    if form == "coco":
        return CocoFile(path, inputs.images)
    if form == "yolo":
        return YoloFolder(path, inputs.images)
    return FILE_PER_IMAGE[form](path, inputs.images, _is_folder(path))


def check_records(path: Path | None, form: str, inputs: Inputs, *, resume: bool = False) -> None:
    """A `UsageError` for what cannot be written, before any work is done."""
    if path is None:
        if resume:
            raise UsageError("--resume goes on with the file of --json; name it.")
        if form != "plain":
            raise UsageError(f"--format {form} is about what --json writes; add --json.")
        return
    through = is_stdout(path) or is_stream(path)
    if resume and (form != "plain" or through):
        raise UsageError("--resume goes on with a file of plain records; a stream or --format has none.")
    if resume and any(image.name == STDIN for image in inputs.images):
        raise UsageError("--resume cannot know what came from standard input in the interrupted run; name a file.")
    sources = {os.path.realpath(image.source) for image in inputs.images if isinstance(image.source, str)}
    if not through and not path.is_dir() and os.path.realpath(path) in sources:
        raise UsageError(f"--json {path} is one of the images to describe; give the records another name.")
    if form in (*_LINES, "coco"):
        if not through and (path.is_dir() or not path.parent.is_dir()):
            raise UsageError(f"--json needs a file in an existing folder, but it is {str(path)!r}.")
        return
    if through:
        raise UsageError(f"--format {form} writes a file for each image; give --json a folder, not a stream.")
    if form == "yolo" and path.suffix and not path.is_dir():
        raise UsageError(f"--format yolo writes a folder of labels; give --json a folder instead of {str(path)!r}.")
    if inputs.many and not _is_folder(path):
        raise UsageError(
            f"--format {form} writes a file for each image; give --json a folder instead of {str(path)!r}."
        )
    try:
        (path if _is_folder(path) else path.parent).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--json: the folder for {path} cannot be made ({error}).") from error


def _is_folder(path: Path) -> bool:
    """A path without a suffix is meant as one."""
    return path.is_dir() or not path.suffix
