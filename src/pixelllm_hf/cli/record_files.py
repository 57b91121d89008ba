"""Answers in the files of annotation tools and data sets: one file for all images, or one for each in a folder."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from pixelllm_hf.files import atomic_text

from .errors import UsageError
from .images import ImageInput, names_from_root, stems_from_root
from .record_lines import Records, is_stdout

if TYPE_CHECKING:
    from pixelllm_hf.processing.grounded_results import GroundedCaption

    Results = Sequence[GroundedCaption]


class CocoFile(Records):
    """The images and all that was found in them, written in the end; failed inputs are not in it.

    The number in an image's name is its id, if all have different ones; else they are counted from 1.
    """

    def __init__(self, path: Path, images: Sequence[ImageInput]):
        from pixelllm_hf.processing.result_exports import image_id_of

        self.path, self.names = path, names_from_root(images)
        ids: list[int | str] = [image_id_of(name) for name in self.names.values()]
        if len(set(ids)) < len(ids) or not all(isinstance(i, int) for i in ids):
            ids = list(range(1, len(ids) + 1))
        self.ids = dict(zip(self.names, ids, strict=True))
        self.results: dict[ImageInput, Results] = {}

    def add(self, image: ImageInput, results: Results) -> None:
        self.results[image] = results

    def close(self, *, failed: bool) -> None:
        """Also what an interrupted run has got so far, if anything."""
        if failed and not self.results:
            return
        from pixelllm_hf.processing.result_exports import coco_annotations

        images = list(self.results)
        content = coco_annotations(
            list(self.results.values()),
            [self.ids[image] for image in images],
            [self.names[image] for image in images],
            [size_of(image, self.results[image]) for image in images],
        )
        if is_stdout(self.path):
            json.dump(content, sys.stdout, ensure_ascii=False)
            print(flush=True)
            return
        with atomic_text(self.path) as file:
            json.dump(content, file, ensure_ascii=False)


class FilePerImage(Records):
    """A file for each image, in a folder where they are called after their images; or one file for the one image."""

    suffix = ""
    files_stand_alone = True

    def __init__(self, path: Path, images: Sequence[ImageInput], is_folder: bool):
        self.path, self.is_folder = path, is_folder
        self.names, self.stems = names_from_root(images), stems_from_root(images)

    def add(self, image: ImageInput, results: Results) -> None:
        target = self.path / f"{self.stems[image]}{self.suffix}" if self.is_folder else self.path
        target.parent.mkdir(parents=True, exist_ok=True)
        content = self.content(image, results, target)
        with atomic_text(target) as file:
            file.write(content)

    def content(self, image: ImageInput, results: Results, target: Path) -> str:
        raise NotImplementedError


class LabelmeFiles(FilePerImage):
    """Each points to its image."""

    suffix = ".json"

    def content(self, image: ImageInput, results: Results, target: Path) -> str:
        from pixelllm_hf.processing.result_exports import labelme_record

        place = self.names[image]
        if isinstance(image.source, str):
            try:
                place = os.path.relpath(image.source, target.parent)
            except ValueError:  # on another drive
                place = os.path.abspath(image.source)
        record = labelme_record(results, place, image_size=size_of(image, results))
        return json.dumps(record, ensure_ascii=False, indent=2)


class VocFiles(FilePerImage):
    """Pascal VOC's XML."""

    suffix = ".xml"

    def content(self, image: ImageInput, results: Results, target: Path) -> str:
        from pixelllm_hf.processing.dataset_exports import pascal_voc_annotation

        return pascal_voc_annotation(results, self.names[image], image_size=size_of(image, results))


class YoloFolder(FilePerImage):
    """labels/ with a file for each image, and data.yaml with the classes, which go on from those that it had."""

    suffix = ".txt"

    def __init__(self, path: Path, images: Sequence[ImageInput]):
        super().__init__(path / "labels", images, is_folder=True)
        self.data = path / "data.yaml"
        self.classes = {name: number for number, name in enumerate(self._earlier_classes())}

    def content(self, image: ImageInput, results: Results, target: Path) -> str:
        from pixelllm_hf.processing.dataset_exports import yolo_classes, yolo_labels

        known = len(self.classes)
        for name in yolo_classes([results]):
            self.classes.setdefault(name, len(self.classes))
        if len(self.classes) > known or not self.data.exists():  # before a label means it
            self._write_classes()
        lines = yolo_labels(results, self.classes, image_size=size_of(image, results))
        return "".join(line + "\n" for line in lines)

    def _write_classes(self) -> None:
        content = {"path": ".", "train": "images", "val": "images", "names": list(self.classes)}
        with atomic_text(self.data) as file:
            yaml.safe_dump(content, file, allow_unicode=True, sort_keys=False)

    def _earlier_classes(self) -> list[str]:
        if not self.data.exists():
            return []
        try:
            names = yaml.safe_load(self.data.read_text(encoding="utf-8"))["names"]
            names = [names[i] for i in range(len(names))]  # a list, or a mapping from numbers
        except (OSError, ValueError, TypeError, KeyError, RecursionError, yaml.YAMLError) as error:
            raise UsageError(
                f"{self.data} is there, but its classes cannot be read ({error}). Give --json another folder."
            ) from error
        if not all(isinstance(name, str) for name in names) or len(set(names)) < len(names):
            raise UsageError(f"the classes in {self.data} are not different texts. Give --json another folder.")
        return names


FILE_PER_IMAGE: dict[str, Callable[..., Any]] = {"labelme": LabelmeFiles, "voc": VocFiles}


def size_of(image: ImageInput, results: Results) -> tuple[int, int]:
    """(width, height), from the image itself if nothing was found in it."""
    if results:
        return results[0].image_size
    from pixelllm_hf.processing.image_reading import read_image

    return read_image(image.source).size_wh
