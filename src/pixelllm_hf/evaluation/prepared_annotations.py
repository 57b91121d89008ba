"""What is true of the pictures of a prepared folder: the same as of the files it was made from, as far as rows hold it.

Rows hold boxes within their pictures and to float32; pictures without anything to learn are not among them.
Names come from `instances.json` beside the shards, see `data.prepared_objects`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from pixelllm_hf.data.bad_records import ReadReport
from pixelllm_hf.data.coco_files import CocoFile
from pixelllm_hf.data.mixing import undecoded
from pixelllm_hf.data.prepared_folder import read_prepared
from pixelllm_hf.data.record_fields import checked_flag, checked_xywh, required
from pixelllm_hf.evaluation.pictures import (
    Box,
    CaptionedPicture,
    DescribedPicture,
    EvaluationDataError,
    EvaluationScene,
    Expression,
    ReferredPicture,
    Region,
    StoredFile,
)
from pixelllm_hf.evaluation.scene_folder import INSTANCES, DataFolder


class PreparedAnnotations:
    """A prepared folder, read as rows of one task and as one entry a picture, in the order of the rows."""

    def __init__(self, data: DataFolder, task: str):
        self.data = data
        self.rows = undecoded(read_prepared(data.folder, task=task, split=data.split))

    def scenes(self) -> Iterator[EvaluationScene]:
        self.data.need(INSTANCES)
        for image_id, file, _ in self._by_picture():
            if image_id not in self._objects:
                raise EvaluationDataError(f"{self.data.folder / INSTANCES} does not list image {image_id!r}.")
            objects = self._objects[image_id]
            boxes = np.array([thing["box"] for thing in objects], np.float64).reshape(-1, 4)
            names = tuple(self.data.counted_as(thing["name"]) for thing in objects)
            yield EvaluationScene(image_id, file, names, boxes)

    def referred(self) -> Iterator[ReferredPicture]:
        number = 0
        for image_id, file, members in self._by_picture():
            expressions = []
            for prompt in _prompts(members):
                number += 1
                name, alike = self._class_of(image_id, prompt["object_box"])
                expressions.append(
                    Expression(
                        number,
                        prompt["target"],
                        _xywh(prompt["object_box"]),
                        prompt["mask"],
                        None if name is None else alike > 1,
                        None if name is None else self.data.is_trained(name),
                    )
                )
            size_hw = (members[0]["height"], members[0]["width"])
            yield ReferredPicture(image_id, file, size_hw, tuple(expressions))

    def described(self) -> Iterator[DescribedPicture]:
        for image_id, file, members in self._by_picture():
            regions = tuple(Region(_xywh(prompt["box"]), prompt["target"]) for prompt in _prompts(members))
            yield DescribedPicture(image_id, file, (members[0]["width"], members[0]["height"]), regions)

    def captioned(self) -> Iterator[CaptionedPicture]:
        for image_id, file, members in self._by_picture():
            # Rows may hold objects beside the captions, which are about the whole picture.
            captions = tuple(prompt["target"] for prompt in _prompts(members) if prompt["box"] is None)
            names = None
            if image_id in self._objects:
                names = frozenset(self.data.counted_as(thing["name"]) for thing in self._objects[image_id])
            yield CaptionedPicture(image_id, file, captions, names)

    def _by_picture(self) -> Iterator[tuple[str, StoredFile, list[Mapping[str, Any]]]]:
        """Id, image and rows of every picture; a picture stands where its first row stands."""
        members: dict[str, list[int]] = {}
        for index, image_id in enumerate(self.rows["image_id"]):
            members.setdefault(image_id, []).append(index)
        files, prompts = self.rows.select_columns(["image"]), self.rows.remove_columns(["image"])
        for image_id, indices in members.items():
            yield image_id, StoredFile(files, indices[0]), [prompts[index] for index in indices]

    @cached_property
    def _objects(self) -> dict[str, list[dict[str, Any]]]:
        """Image id -> its objects: name, box (4,) xyxy float32 within the picture, crowd. Empty without the file."""
        path = self.data.find(INSTANCES)
        if path is None:
            return {}
        coco, objects = CocoFile.read(path), {}
        for image in coco.by_image(ReadReport(), "raise"):
            listed = []
            for where, record in image.annotations:
                number, box = required(where, record, "category_id", "bbox")
                xyxy = np.array(checked_xywh(where, box, image.size_wh), np.float32)
                crowd = checked_flag(where, record.get("iscrowd"), "iscrowd")
                listed.append({"name": coco.category(where, number), "box": xyxy, "crowd": crowd})
            objects[str(image.id)] = listed
        return objects

    def _class_of(self, image_id: str, box: Sequence[float]) -> tuple[str | None, int]:
        """The class of the object with this box, and how many of it are in the picture, crowds aside."""
        objects = self._objects.get(image_id, [])
        same = [thing for thing in objects if np.array_equal(thing["box"], np.array(box, np.float32))]
        if not same:
            return None, 0
        name = same[0]["name"]
        return name, sum(thing["name"] == name and not thing["crowd"] for thing in objects)


def _prompts(members: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [prompt for row in members for prompt in row["prompts"]]


def _xywh(box: Sequence[float]) -> Box:
    x0, y0, x1, y1 = box
    return x0, y0, x1 - x0, y1 - y0
