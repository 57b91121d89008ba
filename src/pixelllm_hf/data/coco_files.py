"""Files in COCO's layout: a list of images, and a list of annotations that point at them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pixelllm_hf.data.annotation_text import load_json
from pixelllm_hf.data.bad_records import AnnotationFileError, BadRecordError, OnError, ReadReport
from pixelllm_hf.data.image_folder import ImageFolder
from pixelllm_hf.data.record_fields import (
    checked_id,
    checked_string,
    checked_text,
    image_size_wh,
    required,
    shown,
)


@dataclass(frozen=True)
class CocoImage:
    """One image record with its annotations; `where` names the record in errors."""

    where: str
    id: int | str
    size_wh: tuple[int, int]
    record: dict[str, Any]
    annotations: list[tuple[str, dict[str, Any]]]  # where, record

    def find_in(self, folder: ImageFolder) -> Path:
        """Its file: by the name that the record gives, or by LVIS's URL, or by its id."""
        names = [self.record[key] for key in ("file_name", "coco_url") if key in self.record]
        for name in names:
            checked_string(self.where, name, "the image's file name")  # null is no name; an empty one says nothing
        return folder.find(self.where, self.id, *names, size_wh=self.size_wh)


@dataclass(frozen=True)
class CocoFile:
    """The parsed file. `categories` maps ids to names and is empty in files without categories.

    bad_categories: those that cannot be used; they are counted with the records, and objects of them are bad records.
    """

    path: Path
    images: list[Any]
    annotations: list[Any]
    categories: dict[int | str, str]
    bad_categories: list[BadRecordError]

    @classmethod
    def read(cls, path: str | Path) -> CocoFile:
        """Read it whole. A file without lists of images and annotations is refused: it is another layout."""
        content = load_json(path, dict)
        lists = {}
        for key in ("images", "annotations", "categories"):
            lists[key] = content.get(key, [] if key == "categories" else None)
            if not isinstance(lists[key], list):
                raise AnnotationFileError(
                    f"{path} needs a list {key!r}, as COCO's files have, but it is {shown(lists[key])}; its keys are "
                    f"{shown(list(content))}. Is it in this layout?"
                )
        categories: dict[int | str, str] = {}
        bad = []
        for index, category in enumerate(lists["categories"]):
            where = f"{path}, category {index}"
            try:
                number, name = required(where, category, "id", "name")
                categories[checked_id(where, number)] = checked_text(where, name, "the name of a category")
            except BadRecordError as error:
                bad.append(error)
        return cls(Path(path), lists["images"], lists["annotations"], categories, bad)

    def by_image(self, report: ReadReport, on_error: OnError) -> Iterator[CocoImage]:
        """The images in the file's order, each with its annotations; those that point nowhere come last, as errors."""
        report.read.update(images=len(self.images), annotations=len(self.annotations))
        for error in self.bad_categories:
            report.drop(error, on_error)
        members: dict[Any, list[tuple[str, dict[str, Any]]]] = {}
        for index, annotation in enumerate(self.annotations):
            where = f"{self.path}, annotation {index}"
            try:
                (image_id,) = required(where, annotation, "image_id")
                members.setdefault(checked_id(where, image_id), []).append((where, annotation))
            except BadRecordError as error:
                report.drop(error, on_error)
        seen: set[int | str] = set()
        for index, image in enumerate(self.images):
            where = f"{self.path}, image {index}"
            try:
                (image_id,) = required(where, image, "id")
                image_id = checked_id(where, image_id)
                size_wh = image_size_wh(where, image)
                if image_id in seen:
                    problem = f"another image before it has the id {shown(image_id)}."
                    raise BadRecordError("repeated id", where, problem, "Give every image its own.")
                seen.add(image_id)
            except BadRecordError as error:
                report.drop(error, on_error)
                continue
            yield CocoImage(where, image_id, size_wh, image, members.pop(image_id, []))
        for image_id, orphans in members.items():
            for where, _ in orphans:
                problem = f"its image {shown(image_id)} is not among the file's usable images."
                report.drop(BadRecordError("missing image", where, problem, "Add it to images."), on_error)

    def category(self, where: str, number: object) -> str:
        """The name of a category, by its id."""
        name = self.categories.get(checked_id(where, number))
        if name is None:
            raise BadRecordError(
                "unknown category", where, f"category {shown(number)} is not listed.", "Add it to categories."
            )
        return name
