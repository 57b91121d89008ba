"""PASCAL VOC's folder of XML files -> grounded rows whose texts are the names of the objects."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal
from xml.etree.ElementTree import Element

from datasets import Dataset, IterableDataset

from pixelllm_hf.data.bad_records import BadRecordError, OnError, ReadReport, check_on_error, check_task
from pixelllm_hf.data.coco_objects import spoken_name
from pixelllm_hf.data.grounded_examples import build_dataset, grounded_row
from pixelllm_hf.data.image_folder import ImageFolder
from pixelllm_hf.data.named_objects import NamedObject, object_prompts
from pixelllm_hf.data.split_lists import listed_ids, needed_folder
from pixelllm_hf.data.xml_annotations import bndbox_xyxy, child, child_flag, child_text, read_xml, size_element

TASKS = ("region", "dense", "refer")
_IN_TWO_WORDS = {"diningtable": "dining table", "pottedplant": "potted plant", "tvmonitor": "tv monitor"}


def read_pascal_voc(
    annotations: str | Path,
    images: str | Path,
    *,
    split: str | None = None,
    task: Literal["region", "dense", "refer"] = "region",
    streaming: bool = False,
    on_error: OnError = "raise",
    check_images: bool = False,
    report: ReadReport | None = None,
) -> Dataset | IterableDataset:
    """Rows of `task`, one per image: every object with its name.

    annotations: the folder that holds Annotations and, for splits, ImageSets/Main. images: mostly its JPEGImages.
    split: a list of images in ImageSets/Main ("trainval"); None takes all images.
    "refer" takes the objects that are alone of their name in the image. Objects that are marked difficult are left out
    and counted, as in the official evaluation. Images whose objects are all left out are, too.
    check_images: decode every image while reading, so that damaged files are bad records too.
    """
    check_on_error(on_error)
    check_task(task, TASKS)
    folder = ImageFolder(images, check=check_images)
    records = needed_folder(annotations, "Annotations", "PASCAL VOC")
    lists = Path(annotations) / "ImageSets" / "Main"

    def rows(report: ReadReport) -> Iterator[dict[str, Any]]:
        for _, image_id in listed_ids(records, lists, split, report, on_error):
            report.read["images"] += 1
            where = str(records / f"{image_id}.xml")
            try:
                annotation = read_xml(where, "annotation")
                size_wh = size_element(where, annotation)
                names = [] if annotation.find("filename") is None else [child_text(where, annotation, "filename")]
                path = folder.find(where, image_id, *names, size_wh=size_wh)
            except BadRecordError as error:
                report.drop(error, on_error)
                continue
            objects = []
            for number, element in enumerate(annotation.findall("object")):
                report.read["objects"] += 1
                try:
                    objects.append(_object(f"{where}, object {number}", element, size_wh))
                except BadRecordError as error:
                    report.drop(error, on_error)
            prompts = object_prompts(objects, task, report, on_error)
            if not prompts:
                report.leave_out("image without objects", f"{where} has none for this task.")
                continue
            yield grounded_row(path, image_id, size_wh, task, prompts)

    return build_dataset(rows, streaming=streaming, report=report)


def _object(where: str, element: Element, size_wh: tuple[int, int]) -> NamedObject:
    name = spoken_name(child_text(where, element, "name"))
    box = bndbox_xyxy(where, child(where, element, "bndbox"), size_wh)
    difficult = child_flag(where, element, "difficult")
    return NamedObject(where, _IN_TWO_WORDS.get(name, name), box, left_out="difficult" if difficult else None)
