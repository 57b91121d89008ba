"""COCO instances and panoptic segments -> grounded rows whose texts are the category names."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, IterableDataset

from pixelllm_hf.data.bad_records import BadRecordError, OnError, ReadReport, check_on_error, check_task
from pixelllm_hf.data.coco_files import CocoFile, CocoImage
from pixelllm_hf.data.grounded_examples import build_dataset, grounded_row
from pixelllm_hf.data.image_folder import ImageFolder
from pixelllm_hf.data.named_objects import OBJECT_TASKS, NamedObject, ObjectTask, object_prompts
from pixelllm_hf.data.object_masks import checked_mask
from pixelllm_hf.data.record_fields import (
    annotated_xywh,
    checked_flag,
    checked_list,
    checked_text,
    checked_whole,
    checked_xywh,
    required,
)
from pixelllm_hf.processing.image_reading import ImageError, read_image
from pixelllm_hf.processing.mask_codec import encode_rle


def read_coco_objects(
    annotations: str | Path,
    images: str | Path,
    *,
    task: ObjectTask = "region",
    streaming: bool = False,
    on_error: OnError = "raise",
    check_images: bool = False,
    for_evaluation: bool = False,
    report: ReadReport | None = None,
) -> Dataset | IterableDataset:
    """Rows of `task`, one per image of an instances file: every object with its category's name.

    "refer" and "segment" take the objects that are alone of their category in the image: "the dog" must be one.
    "reason" asks about categories, each with the mask of all its objects. Files of LVIS, PACO and Pascal-Part are read
    too. Crowds are left out and counted. For typed categories and all masks, see `read_coco_instances`.
    for_evaluation: keep what official evaluation counts and nothing can be learnt from: boxes without area, images
        without objects, and among the objects to find crowds, marked as such.
    """

    def objects(coco: CocoFile, image: CocoImage) -> Iterator[Callable[[], NamedObject]]:
        for where, record in image.annotations:
            yield partial(coco_object, coco, image, where, record, for_evaluation=for_evaluation)

    return _read(annotations, images, objects, task, streaming, on_error, check_images, report, for_evaluation)


def coco_object(
    coco: CocoFile, image: CocoImage, where: str, record: dict[str, Any], *, for_evaluation: bool = False
) -> NamedObject:
    """An annotation of an instances file, with its category's name."""
    box, number = required(where, record, "bbox", "category_id")
    return NamedObject(
        where,
        spoken_name(coco.category(where, number)),
        checked_xywh(where, box, image.size_wh, may_be_empty=for_evaluation),
        partial(checked_mask, where, record.get("segmentation"), image.size_wh),
        left_out="crowd" if checked_flag(where, record.get("iscrowd"), "iscrowd") else None,
        annotation_box=annotated_xywh(where, box),
    )


def read_coco_panoptic(
    annotations: str | Path,
    images: str | Path,
    *,
    segments: str | Path | None = None,
    task: ObjectTask = "region",
    streaming: bool = False,
    on_error: OnError = "raise",
    check_images: bool = False,
    report: ReadReport | None = None,
) -> Dataset | IterableDataset:
    """Rows of `task`, one per image of a panoptic file: every segment, thing or stuff, with its category's name.

    segments: the folder of PNGs that hold the segments' ids; by default the one beside the file and of its name, as
    COCO unpacks it. They are opened for the tasks "segment" and "reason" alone.
    "refer" and "segment" take the segments that are alone of their category in the image, "reason" asks about
    categories. Crowds are left out and counted.
    """
    folder = Path(segments) if segments is not None else Path(annotations).with_suffix("")
    if task in ("segment", "reason") and not folder.is_dir():
        raise FileNotFoundError(
            f"the folder of panoptic PNGs {str(folder)!r} does not exist. Pass it as segments='…'; COCO unpacks it "
            "beside the JSON file."
        )

    def make(coco: CocoFile, image: CocoImage, where: str, info: Any, ids: Callable[[], np.ndarray]) -> NamedObject:
        number, box, category = required(where, info, "id", "bbox", "category_id")
        return NamedObject(
            where,
            spoken_name(coco.category(where, category)),
            checked_xywh(where, box, image.size_wh),
            lambda *_: _segment_mask(where, ids, checked_whole(where, number, "the id of a segment")),
            left_out="crowd" if checked_flag(where, info.get("iscrowd"), "iscrowd") else None,
            annotation_box=annotated_xywh(where, box),
        )

    def objects(coco: CocoFile, image: CocoImage) -> Iterator[Callable[[], NamedObject]]:
        for where, annotation in image.annotations:
            infos, file_name = required(where, annotation, "segments_info", "file_name")
            path = folder / Path(checked_text(where, file_name, "file_name")).name
            ids = cache(partial(_segment_ids, where, path, image.size_wh))
            for index, info in enumerate(checked_list(where, infos, "segments_info")):
                yield partial(make, coco, image, f"{where}, segment {index}", info, ids)

    return _read(annotations, images, objects, task, streaming, on_error, check_images, report)


def spoken_name(category: str) -> str:
    """A category's name as one would say it: COCO's stuff has names for sorting, LVIS explains in parentheses, and
    PACO and Pascal-Part write a part behind its object.

    >>> spoken_name("wall-other-merged"), spoken_name("wall-brick"), spoken_name("traffic light")
    ('wall', 'wall brick', 'traffic light')
    >>> spoken_name("trash_can:lid"), spoken_name("mouse_(computer_equipment):left_button")
    ('lid of the trash can', 'left button of the mouse')
    """
    thing, _, part = category.partition(":")
    if part.strip() and thing.strip():
        return f"{spoken_name(part)} of the {spoken_name(thing)}"
    category = category.split("_(")[0] or category
    words = [word for word in category.replace("-", " ").replace("_", " ").split() if word not in ("merged", "other")]
    return " ".join(words) or category


def _read(
    annotations: str | Path,
    images: str | Path,
    objects: Callable[[CocoFile, CocoImage], Iterator[Callable[[], NamedObject]]],
    task: str,
    streaming: bool,
    on_error: OnError,
    check_images: bool,
    report: ReadReport | None,
    for_evaluation: bool = False,
) -> Dataset | IterableDataset:
    """objects: what an image holds, each made by a call, so that a bad one is dropped without its neighbours."""
    check_on_error(on_error)
    check_task(task, OBJECT_TASKS)
    folder = ImageFolder(images, check=check_images)

    def rows(report: ReadReport) -> Iterator[dict[str, Any]]:
        coco = CocoFile.read(annotations)
        for image in coco.by_image(report, on_error):
            try:
                path = image.find_in(folder)
                found = []
                for make in objects(coco, image):
                    try:
                        found.append(make())
                    except BadRecordError as error:
                        report.drop(error, on_error)
            except BadRecordError as error:
                report.drop(error, on_error)
                continue
            prompts = object_prompts(found, task, report, on_error, key=str(image.id), for_evaluation=for_evaluation)
            if not prompts and not (for_evaluation and task in ("region", "dense")):
                report.leave_out("image without objects", f"{image.where} (image {image.id}) has none for this task.")
                continue
            yield grounded_row(path, image.id, image.size_wh, task, prompts)

    return build_dataset(rows, streaming=streaming, report=report)


def _segment_mask(where: str, ids: Callable[[], np.ndarray], number: int) -> dict[str, Any]:
    mask = ids() == number
    if not mask.any():
        raise BadRecordError(
            "malformed mask", where, f"no pixel of the PNG has the segment's id {number!r}.", "Pair the files."
        )
    return encode_rle(mask)


def _segment_ids(where: str, path: Path, size_wh: tuple[int, int]) -> np.ndarray:
    """(H, W) int: the id of the segment at every pixel, which the PNG packs into red, green and blue."""
    try:
        image = read_image(path)
    except ImageError as error:
        raise BadRecordError("unreadable segments", where, str(error), "Or skip the record.") from error
    if image.size_wh != tuple(size_wh):
        raise BadRecordError(
            "mask of another size",
            where,
            f"{path.name!r} has width, height {image.size_wh}, the image {tuple(size_wh)}.",
            "Pair the PNGs with their JSON file.",
        )
    return np.asarray(image.pixels, np.int32) @ np.array([1, 256, 256 * 256], np.int32)
