"""Files in COCO's layout: a list of images, and a list of annotations that point at them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pixelllm_hf.data.grounded_examples import (
    BadRecordError,
    OnError,
    ReadReport,
    checked_id,
    checked_list,
    image_size_wh,
    load_json,
    required,
)


@dataclass(frozen=True)
class CocoImage:
    """One image record with its annotations; `where` names the record in errors."""

    where: str
    id: int | str
    size_wh: tuple[int, int]
    record: dict[str, Any]
    annotations: list[tuple[str, dict[str, Any]]]  # where, record


@dataclass(frozen=True)
class CocoFile:
    """The parsed file. `categories` maps ids to names and is empty in files without categories."""

    path: Path
    images: list[Any]
    annotations: list[Any]
    categories: dict[Any, str]

    @classmethod
    def read(cls, path: str | Path) -> CocoFile:
        """Read it whole. A file without images or annotations is refused: it is another layout."""
        content = load_json(path, dict)
        images, annotations = required(str(path), content, "images", "annotations")
        categories = {}
        for index, category in enumerate(checked_list(str(path), content.get("categories", []), "categories")):
            number, name = required(f"{path}, category {index}", category, "id", "name")
            categories[number] = str(name)
        checked_list(str(path), images, "images")
        checked_list(str(path), annotations, "annotations")
        return cls(Path(path), images, annotations, categories)

    def by_image(self, report: ReadReport, on_error: OnError) -> Iterator[CocoImage]:
        """The images in the file's order, each with its annotations; those that point nowhere come last, as errors."""
        report.read.update(images=len(self.images), annotations=len(self.annotations))
        members: dict[Any, list[tuple[str, dict[str, Any]]]] = {}
        for index, annotation in enumerate(self.annotations):
            where = f"{self.path}, annotation {index}"
            try:
                (image_id,) = required(where, annotation, "image_id")
                members.setdefault(checked_id(where, image_id), []).append((where, annotation))
            except BadRecordError as error:
                report.drop(error, on_error)
        for index, image in enumerate(self.images):
            where = f"{self.path}, image {index}"
            try:
                (image_id,) = required(where, image, "id")
                image_id = checked_id(where, image_id)
                size_wh = image_size_wh(where, image)
            except BadRecordError as error:
                report.drop(error, on_error)
                continue
            yield CocoImage(where, image_id, size_wh, image, members.pop(image_id, []))
        for image_id, orphans in members.items():
            for where, _ in orphans:
                problem = f"its image {image_id!r} is not among the file's usable images."
                report.drop(BadRecordError("missing image", where, problem, "Add it to images."), on_error)

    def category(self, where: str, number: object) -> str:
        """The name of a category, by its id."""
        try:
            return self.categories[number]
        except (KeyError, TypeError) as error:
            raise BadRecordError(
                "unknown category", where, f"category {number!r} is not listed.", "Add it to categories."
            ) from error
