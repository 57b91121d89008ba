"""Visual Genome region descriptions -> grounded rows (spec section 11.2)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from datasets import Dataset, IterableDataset

from pixelllm_hf.data.annotation_text import read_records
from pixelllm_hf.data.bad_records import BadRecordError, OnError, ReadReport, check_on_error, check_task
from pixelllm_hf.data.grounded_examples import build_dataset, grounded_prompt
from pixelllm_hf.data.image_folder import ImageFolder
from pixelllm_hf.data.record_fields import (
    checked_id,
    checked_list,
    checked_text,
    checked_xywh,
    image_size_wh,
    required,
    required_one,
    shown,
)
from pixelllm_hf.processing.task_prompts import task_prompt

_FOLDERS = ("VG_100K", "VG_100K_2")  # what the two archives of images unpack to; the URL says which, where there is one


def read_visual_genome(
    regions: str | Path,
    image_data: str | Path,
    images: str | Path,
    *,
    task: Literal["region", "dense"] = "region",
    streaming: bool = False,
    on_error: OnError = "raise",
    check_images: bool = False,
    report: ReadReport | None = None,
) -> Dataset | IterableDataset:
    """Rows of task "region" or "dense", one per image: each region has a box and a phrase as target.

    In a "region" row the box is the prompt; in a "dense" row boxes and phrases are what is to be found.
    regions, image_data: the official region_descriptions.json and image_data.json.
    images: the folder of all images, or the one that holds VG_100K and VG_100K_2.
    check_images: decode every image while reading, so that damaged files are bad records too.
    A bad region is dropped from its image; an image left without regions is dropped too (both are counted).
    """
    check_on_error(on_error)
    check_task(task, ("region", "dense"))
    folder = ImageFolder(images, check=check_images)

    def rows(report: ReadReport) -> Iterator[dict[str, Any]]:
        known = {}
        for where, about in read_records(image_data, report, on_error):
            try:
                known[checked_id(where, required_one(where, about, "image_id", "id"))] = about  # "id" in version 1.0
            except BadRecordError as error:
                report.drop(error, on_error)
        for where, record in read_records(regions, report, on_error):
            report.read["images"] += 1
            try:
                yield _row(where, record, known, folder, task, on_error, report)
            except BadRecordError as error:
                report.drop(error, on_error)

    return build_dataset(rows, streaming=streaming, report=report)


def _row(
    where: str,
    record: dict[str, Any],
    image_data: dict[Any, dict[str, Any]],
    folder: ImageFolder,
    task: str,
    on_error: OnError,
    report: ReadReport,
) -> dict[str, Any]:
    image_id, regions = required_one(where, record, "id", "image_id"), required_one(where, record, "regions")
    if checked_id(where, image_id) not in image_data:
        raise BadRecordError(
            "missing image", where, f"image {shown(image_id)} is not in the image data.", "Pass the matching file."
        )
    about = image_data[image_id]
    width, height = image_size_wh(where, about)
    url = about.get("url")
    names = [None if url == "" else url, *(f"{part}/{image_id}.jpg" for part in _FOLDERS)]
    path = folder.find(where, image_id, *names, size_wh=(width, height))
    context = task_prompt("region").prompt(None, "region")
    prompts = []
    for index, region in enumerate(checked_list(where, regions, "regions")):
        place = f"{where} (image {shown(image_id)}), region {index}"
        report.read["regions"] += 1
        try:
            phrase, x, y, w, h = required(place, region, "phrase", "x", "y", "width", "height")
            phrase = checked_text(place, phrase, "phrase")
            box = checked_xywh(place, (x, y, w, h), (width, height))
        except BadRecordError as error:
            report.drop(error, on_error)
            continue
        prompts.append(grounded_prompt(phrase, box=box, context=context, object_box=box))
    if not prompts:
        raise BadRecordError("no regions", where, f"image {shown(image_id)} has no usable region.", "Skip the image.")
    return {
        "image": str(path),
        "image_id": str(image_id),
        "width": width,
        "height": height,
        "task": task,
        "prompts": prompts,
    }
