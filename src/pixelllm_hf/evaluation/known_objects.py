"""What is in the images, where a file of COCO's instances tells: `instances.json` beside annotations or shards.

Rows say what is asked about; this says what names captions may use, which are present, and whether another object of
an expression's class is in the image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pixelllm_hf.data.bad_records import ReadReport
from pixelllm_hf.data.coco_files import CocoFile
from pixelllm_hf.data.record_fields import annotated_xywh, checked_flag, checked_xywh, required


@dataclass(frozen=True)
class KnownObject:
    """name: of its category. annotation_box: x, y, w, h as annotated; box: xyxy within the image."""

    name: str
    annotation_box: tuple[float, float, float, float]
    box: tuple[float, float, float, float]
    crowd: bool

    def has_box_of(self, prompt: Mapping[str, Any]) -> bool:
        """Whether a prompt speaks of this object, by its box; folders prepared earlier have it within the image alone,
        and in single precision."""
        if prompt["annotation_box"] is not None:
            return tuple(prompt["annotation_box"]) == self.annotation_box
        return np.array_equal(np.array(self.box, np.float32), np.array(prompt["object_box"], np.float32))


def known_objects(path: str | Path) -> dict[str, list[KnownObject]]:
    """Image id, as rows have it -> its objects."""
    coco, objects = CocoFile.read(path), {}
    for image in coco.by_image(ReadReport(), "raise"):
        listed = []
        for where, record in image.annotations:
            number, box = required(where, record, "category_id", "bbox")
            inside = tuple(checked_xywh(where, box, image.size_wh, may_be_empty=True))
            crowd = checked_flag(where, record.get("iscrowd"), "iscrowd")
            listed.append(KnownObject(coco.category(where, number), annotated_xywh(where, box), inside, crowd))  # type: ignore[arg-type]
        objects[str(image.id)] = listed
    return objects


def class_of(prompt: Mapping[str, Any], objects: Sequence[KnownObject]) -> tuple[str | None, int]:
    """The class of the object that a prompt speaks of, and how many of it are in the image, crowds aside."""
    name = next((thing.name for thing in objects if thing.has_box_of(prompt)), None)
    return name, sum(thing.name == name and not thing.crowd for thing in objects)
