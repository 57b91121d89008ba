"""COCO instances -> typed rows of objects with their categories and masks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import datasets
from datasets import ClassLabel, Dataset, Features, IterableDataset, List, Value

from pixelllm_hf.data.bad_records import BadRecordError, OnError, ReadReport, check_on_error
from pixelllm_hf.data.coco_files import CocoFile
from pixelllm_hf.data.grounded_examples import build_dataset
from pixelllm_hf.data.image_folder import ImageFolder
from pixelllm_hf.data.object_masks import run_lengths, usable_segmentation
from pixelllm_hf.data.record_fields import checked_flag, checked_number, checked_whole, checked_xywh, required


def read_coco_instances(
    annotations: str | Path,
    images: str | Path,
    *,
    streaming: bool = False,
    on_error: OnError = "raise",
    check_images: bool = False,
    report: ReadReport | None = None,
) -> Dataset | IterableDataset:
    """One row per image: its objects with box (xyxy pixels), category and mask (polygons, or a COCO run-length record).

    check_images: decode every image while reading, so that damaged files are bad records too.
    `features["objects"].feature["category"].names` are the category names in the order of their ids.
    """
    check_on_error(on_error)
    folder = ImageFolder(images, check=check_images)
    coco = CocoFile.read(annotations)
    numbers = sorted(coco.categories, key=lambda number: (isinstance(number, str), number))
    names = list(dict.fromkeys(coco.categories[number] for number in numbers))  # two ids may have the same name

    def rows(report: ReadReport) -> Iterator[dict[str, Any]]:
        for image in coco.by_image(report, on_error):
            try:
                path = image.find_in(folder)
            except BadRecordError as error:
                report.drop(error, on_error)
                continue
            objects = []
            for where, annotation in image.annotations:
                try:
                    objects.append(_object(where, annotation, coco, image.size_wh, names, report, on_error))
                except BadRecordError as error:
                    report.drop(error, on_error)
            yield {
                "image": str(path),
                "image_id": str(image.id),
                "width": image.size_wh[0],
                "height": image.size_wh[1],
                "objects": objects,
            }

    return build_dataset(rows, features=instance_features(names), streaming=streaming, report=report)


def instance_features(names: Sequence[str]) -> Features:
    """The row of `read_coco_instances` for these category names."""
    return Features(
        {
            "image": datasets.Image(),
            "image_id": Value("string"),
            "width": Value("int32"),
            "height": Value("int32"),
            "objects": List(
                {
                    "id": Value("int64"),
                    "box": List(Value("float32"), length=4),
                    "category": ClassLabel(names=list(names)),
                    "area": Value("float32"),
                    "crowd": Value("bool"),
                    "polygons": List(List(Value("float32"))),
                    "rle": {"size": List(Value("int32")), "counts": Value("string")},
                }
            ),
        }
    )


def _object(
    where: str,
    annotation: dict[str, Any],
    coco: CocoFile,
    size_wh: tuple[int, int],
    names: Sequence[str],
    report: ReadReport,
    on_error: OnError,
) -> dict[str, Any]:
    box, number = required(where, annotation, "bbox", "category_id")
    name = coco.category(where, number)
    xyxy = checked_xywh(where, box, size_wh)
    segmentation = usable_segmentation(where, annotation.get("segmentation"), size_wh, report, on_error)
    return {
        "id": checked_whole(where, annotation.get("id", -1), "the id of an object"),
        "box": xyxy,
        "category": names.index(name),
        "area": _area(where, annotation.get("area"), xyxy),
        "crowd": checked_flag(where, annotation.get("iscrowd"), "iscrowd"),
        "polygons": segmentation if isinstance(segmentation, list) else [],
        "rle": run_lengths(where, segmentation, size_wh) if isinstance(segmentation, dict) else None,
    }


def _area(where: str, area: object, xyxy: Sequence[float]) -> float:
    """As the file says, else the box's."""
    given = 0.0 if area is None else checked_number(where, area, "area")
    if not 0 <= given <= 1e12:
        raise BadRecordError(
            "malformed number", where, f"area must be 0 or more pixels, but it is {given:g}.", "Fix it."
        )
    return given or (xyxy[2] - xyxy[0]) * (xyxy[3] - xyxy[1])
