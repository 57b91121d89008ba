"""Visual Genome region descriptions -> grounded rows (official.md#data-sets)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from datasets import Dataset, IterableDataset

from pixelllm_hf.data.annotation_text import read_records
from pixelllm_hf.data.bad_records import BadRecordError, OnError, ReadReport, check_on_error, check_task
from pixelllm_hf.data.grounded_examples import build_dataset, grounded_prompt, grounded_row
from pixelllm_hf.data.image_folder import ImageFolder
from pixelllm_hf.data.record_fields import (
    annotated_xywh,
    checked_id,
    checked_list,
    checked_text,
    checked_xywh,
    image_size_wh,
    required,
    required_one,
    shown,
)
from pixelllm_hf.processing.tasks import task_spec

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
    for_evaluation: bool = False,
    report: ReadReport | None = None,
) -> Dataset | IterableDataset:
    """Rows of task "region" or "dense", one per image: each region has a box and a phrase as target.

    In a "region" row the box is the prompt; in a "dense" row boxes and phrases are what is to be found.
    regions, image_data: the official region_descriptions.json and image_data.json.
    images: the folder of all images, or the one that holds VG_100K and VG_100K_2.
    check_images: decode every image while reading, so that damaged files are bad records too.
    A bad region is dropped from its image; an image left without regions is dropped too (both are counted).
    for_evaluation: keep what official evaluation counts and nothing can be learnt from: boxes without area, empty
        phrases, images without regions.
    """
    check_on_error(on_error)
    check_task(task, ("region", "dense"))
    folder = ImageFolder(images, check=check_images)

    def rows(report: ReadReport) -> Iterator[dict[str, Any]]:
        known = read_image_data(image_data, report, on_error)
        for where, record in read_records(regions, report, on_error):
            report.read["images"] += 1
            try:
                yield _row(where, record, known, folder, task, on_error, report, for_evaluation)
            except BadRecordError as error:
                report.drop(error, on_error)

    return build_dataset(rows, streaming=streaming, report=report)


ImageData = dict[int | str, tuple[str, dict[str, Any]]]


def read_image_data(path: str | Path, report: ReadReport, on_error: OnError) -> ImageData:
    """Where and what it is, for every record of image_data.json, by its image's id (in version 1.0 the key "id")."""
    known = {}
    for where, about in read_records(path, report, on_error):
        try:
            known[checked_id(where, required_one(where, about, "image_id", "id"))] = where, about
        except BadRecordError as error:
            report.drop(error, on_error)
    return known


def find_image(
    folder: ImageFolder, where: str, image_id: int | str, image_data: ImageData
) -> tuple[Path, tuple[int, int]]:
    """An image's file and its width and height; the URL in image_data.json says which of the two folders holds it."""
    if image_id not in image_data:
        problem = f"image {shown(image_id)} is not in the image data."
        raise BadRecordError("missing image", where, problem, "Pass the matching file.")
    where, about = image_data[image_id]
    size_wh, url = image_size_wh(where, about), about.get("url")
    names = [None if url == "" else url, *(f"{part}/{image_id}.jpg" for part in _FOLDERS)]
    return folder.find(where, image_id, *names, size_wh=size_wh), size_wh


def _row(
    where: str,
    record: dict[str, Any],
    image_data: ImageData,
    folder: ImageFolder,
    task: str,
    on_error: OnError,
    report: ReadReport,
    for_evaluation: bool,
) -> dict[str, Any]:
    image_id, regions = required_one(where, record, "id", "image_id"), required_one(where, record, "regions")
    path, (width, height) = find_image(folder, where, checked_id(where, image_id), image_data)
    context = task_spec("region").prompt(None)
    prompts = []
    for index, region in enumerate(checked_list(where, regions, "regions")):
        place = f"{where} (image {shown(image_id)}), region {index}"
        report.read["regions"] += 1
        try:
            phrase, x, y, w, h = required(place, region, "phrase", "x", "y", "width", "height")
            phrase = checked_text(place, phrase, "phrase", may_be_empty=for_evaluation)
            box = checked_xywh(place, (x, y, w, h), (width, height), may_be_empty=for_evaluation)
            annotated = annotated_xywh(place, (x, y, w, h))
        except BadRecordError as error:
            report.drop(error, on_error)
            continue
        prompts.append(grounded_prompt(phrase, box=box, context=context, object_box=box, annotation_box=annotated))
    if not prompts and not for_evaluation:
        raise BadRecordError("no regions", where, f"image {shown(image_id)} has no usable region.", "Skip the image.")
    return grounded_row(path, image_id, (width, height), task, prompts)
