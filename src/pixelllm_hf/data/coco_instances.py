"""COCO instances -> typed rows of objects, and label grids for the dense pre-training of the vision towers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from datasets import ClassLabel, Dataset, Features, IterableDataset, List, Value
from PIL import Image, ImageDraw
from torch import Tensor

from pixelllm_hf.data.collator import IGNORED_LABEL, read_row_image
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
from pixelllm_hf.data.image_transforms import Augmentation, TrainingView
from pixelllm_hf.data.visual_genome import load_json
from pixelllm_hf.processing.mask_codec import counts_to_string, decode_rle, rle_counts

_FINER = 4  # masks are drawn this much finer than the grid and read at the cells' centres


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
    coco = load_json(annotations, dict)
    categories = sorted(coco.get("categories", []), key=lambda category: category["id"])
    position = {category["id"]: index for index, category in enumerate(categories)}
    by_image: dict[Any, list[tuple[int, dict[str, Any]]]] = {}
    for index, annotation in enumerate(coco.get("annotations", [])):
        by_image.setdefault(annotation.get("image_id"), []).append((index, annotation))

    def rows(report: ReadReport) -> Iterator[dict[str, Any]]:
        for index, image in enumerate(coco.get("images", [])):
            where = f"{annotations}, image {index}"
            try:
                image_id, width, height = required(where, image, "id", "width", "height")
                path = folder.find(where, image_id, image.get("file_name"))
            except BadRecordError as error:
                report.drop(error, on_error)
                continue
            objects = []
            for number, annotation in by_image.get(image_id, []):
                try:
                    objects.append(
                        _object(f"{annotations}, annotation {number}", annotation, position, (width, height))
                    )
                except BadRecordError as error:
                    report.drop(error, on_error)
            yield {
                "image": str(path),
                "image_id": str(image_id),
                "width": width,
                "height": height,
                "objects": objects,
            }

    features = instance_features([category["name"] for category in categories])
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


class LabelGridCollator:
    """Rows of `read_coco_instances` -> pictures on the canvas and what lies at every cell of a grid over it.

    Emits pixel_values (B, 3, S, S) 0..255, pixel_mask (B, S, S), grid_labels (B, g, g): 0 nothing, 1 + category of the
    smallest object over the cell's centre, -100 beyond the picture; grid_boxes (B, g, g, 4): that object's box, xyxy in
    0..1 of the unpadded picture, NaN elsewhere; class_labels (B, categories): 1.0 for the categories in view.
    """

    def __init__(
        self,
        *,
        image_size: int,
        grid_size: int,
        num_categories: int,
        augmentation: Augmentation | None = None,
        antialias: bool = True,
    ):
        self.antialias = antialias
        self.image_size, self.grid_size, self.num_categories = image_size, grid_size, num_categories
        self.augmentation = augmentation or Augmentation()

    def __call__(
        self, rows: Sequence[dict[str, Any]], generators: Sequence[np.random.Generator] | None = None
    ) -> dict[str, Tensor]:
        """rows (B) -> batch. generators: one per row for everything random; without them a fixed seed per place."""
        if generators is None:
            generators = [np.random.default_rng(place) for place in range(len(rows))]
        examples = [self._example(row, generator) for row, generator in zip(rows, generators, strict=True)]
        return {name: torch.stack([example[name] for example in examples]) for name in examples[0]}

    def _example(self, row: dict[str, Any], generator: np.random.Generator) -> dict[str, Tensor]:
        view = TrainingView.draw((row["width"], row["height"]), self.image_size, self.augmentation, generator)
        image = read_row_image(row, view, antialias=self.antialias)
        pixels, mask = view.image(image, antialias=self.antialias)
        side = self.grid_size
        labels = torch.zeros(side, side, dtype=torch.long)
        boxes = torch.full((side, side, 4), float("nan"))
        present = torch.zeros(self.num_categories)
        for thing in sorted(row["objects"], key=lambda thing: -thing["area"]):  # small ones lie over large ones
            if thing["crowd"]:
                continue
            box = view.relative_boxes(torch.tensor(thing["box"], dtype=torch.float32))
            if not bool((box[2:] > box[:2]).all()):
                continue
            cells = torch.from_numpy(self._cells(thing, view))
            labels[cells] = thing["category"] + 1
            boxes[cells] = box
            present[thing["category"]] = 1.0
        width, height = view.size_wh
        centers = (torch.arange(side) + 0.5) * self.image_size / side
        outside = (centers[:, None] >= height) | (centers[None, :] >= width)
        labels[outside] = IGNORED_LABEL
        boxes[outside] = float("nan")
        return {
            "pixel_values": pixels,
            "pixel_mask": mask,
            "grid_labels": labels,
            "grid_boxes": boxes,
            "class_labels": present,
        }

    def _cells(self, thing: Mapping[str, Any], view: TrainingView) -> np.ndarray:
        """(g, g) bool: cells whose centre lies on the object's mask, or in its box where it has none."""
        width = view.transform.image_size_wh[0]
        top, left = view.window[:2]
        if thing["rle"] is not None and thing["rle"]["counts"]:
            mask = decode_rle(thing["rle"])
            centers = (np.arange(self.grid_size) + 0.5) * self.image_size / self.grid_size
            xy = view.transform.to_image(np.stack([centers + left, centers + top], axis=-1))
            x, y = np.floor(width - xy[:, 0] if view.flipped else xy[:, 0]).astype(int), np.floor(xy[:, 1]).astype(int)
            inside_y, inside_x = (y >= 0) & (y < mask.shape[0]), (x >= 0) & (x < mask.shape[1])
            cells = mask[np.ix_(y.clip(0, mask.shape[0] - 1), x.clip(0, mask.shape[1] - 1))]
            return cells & inside_y[:, None] & inside_x
        side = self.grid_size * _FINER
        drawing = Image.new("1", (side, side))
        pen = ImageDraw.Draw(drawing)
        x0, y0, x1, y1 = thing["box"]
        for polygon in thing["polygons"] or [[x0, y0, x1, y0, x1, y1, x0, y1]]:
            points = np.array(polygon, np.float64).reshape(-1, 2)
            if view.flipped:
                points[:, 0] = width - points[:, 0]
            points = (view.transform.to_canvas(points) - [left, top]) * (side / self.image_size)
            pen.polygon([(x, y) for x, y in points.tolist()], fill=1)
        return np.array(drawing)[_FINER // 2 :: _FINER, _FINER // 2 :: _FINER]


def _object(
    where: str, annotation: dict[str, Any], position: Mapping[Any, int], size_wh: tuple[int, int]
) -> dict[str, Any]:
    box, category = required(where, annotation, "bbox", "category_id")
    if category not in position:
        raise BadRecordError(
            "unknown category", where, f"category {category!r} is not listed.", "Add it to categories."
        )
    segmentation = annotation.get("segmentation")
    rle = None
    if isinstance(segmentation, dict):
        size, counts = required(where, segmentation, "size", "counts")
        if list(size) != [size_wh[1], size_wh[0]]:
            raise BadRecordError(
                "mask of another size",
                where,
                f"the run-length mask is for height, width {list(size)}, the image has {[size_wh[1], size_wh[0]]}.",
                "Correct the record.",
            )
        packed = counts if isinstance(counts, str) else counts_to_string(rle_counts(segmentation))
        rle = {"size": list(size), "counts": packed}
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
