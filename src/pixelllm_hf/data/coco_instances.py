"""COCO instances -> typed rows of objects with their categories and masks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
from datasets import ClassLabel, Dataset, Features, IterableDataset, List, Value

from pixelllm_hf.data.coco_files import CocoFile
from pixelllm_hf.data.grounded_examples import (
    BadRecordError,
    ImageFolder,
    OnError,
    ReadReport,
    build_dataset,
    check_on_error,
    checked_xywh,
    required,
)
from pixelllm_hf.data.object_masks import checked_mask


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
    numbers = sorted(coco.categories)
    position = {number: index for index, number in enumerate(numbers)}

    def rows(report: ReadReport) -> Iterator[dict[str, Any]]:
        for image in coco.by_image(report, on_error):
            try:
                path = folder.find(image.where, image.id, image.record.get("file_name"))
            except BadRecordError as error:
                report.drop(error, on_error)
                continue
            objects = []
            for where, annotation in image.annotations:
                try:
                    objects.append(_object(where, annotation, coco, position, image.size_wh))
                except BadRecordError as error:
                    report.drop(error, on_error)
            yield {
                "image": str(path),
                "image_id": str(image.id),
                "width": image.size_wh[0],
                "height": image.size_wh[1],
                "objects": objects,
            }

    features = instance_features([coco.categories[number] for number in numbers])
    return build_dataset(rows, features=features, streaming=streaming, report=report)


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
    where: str, annotation: dict[str, Any], coco: CocoFile, position: Mapping[Any, int], size_wh: tuple[int, int]
) -> dict[str, Any]:
    box, category = required(where, annotation, "bbox", "category_id")
    coco.category(where, category)  # refuses one that is not listed
    segmentation = annotation.get("segmentation")
    rle = checked_mask(where, segmentation, size_wh) if isinstance(segmentation, dict) else None
    xyxy = checked_xywh(where, box, size_wh)
    return {
        "id": annotation.get("id", -1),
        "box": xyxy,
        "category": position[category],
        "area": float(annotation.get("area") or (xyxy[2] - xyxy[0]) * (xyxy[3] - xyxy[1])),
        "crowd": bool(annotation.get("iscrowd", 0)),
        "polygons": segmentation if isinstance(segmentation, list) else [],
        "rle": rle,
    }
