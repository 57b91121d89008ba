"""Visual Genome region descriptions -> grounded rows (spec section 11.2)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from datasets import Dataset, IterableDataset

from pixelllm_hf.data.grounded_examples import (
    BadRecordError,
    ImageFolder,
    OnError,
    ReadReport,
    build_dataset,
    check_on_error,
    check_task,
    checked_id,
    checked_list,
    checked_text,
    checked_xywh,
    grounded_prompt,
    image_size_wh,
    load_json,
    required,
)
from pixelllm_hf.processing.task_prompts import task_prompt


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
    check_images: decode every image while reading, so that damaged files are bad records too.
    A bad region is dropped from its image; an image left without regions is dropped too (both are counted).
    """
    check_on_error(on_error)
    check_task(task, ("region", "dense"))
    folder = ImageFolder(images, check=check_images)

    def rows(report: ReadReport) -> Iterator[dict[str, Any]]:
        known = {}
        for index, about in enumerate(load_json(image_data, list)):
            where = f"{image_data}, record {index}"
            try:
                known[checked_id(where, *required(where, about, "image_id"))] = about
            except BadRecordError as error:
                report.drop(error, on_error)
        for index, record in enumerate(load_json(regions, list)):
            where = f"{regions}, record {index}"
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
    image_id, regions = required(where, record, "id", "regions")
    if checked_id(where, image_id) not in image_data:
        raise BadRecordError(
            "missing image", where, f"image {image_id!r} is not in the image data.", "Pass the matching file."
        )
    about = image_data[image_id]
    width, height = image_size_wh(where, about)
    path = folder.find(where, image_id, about.get("url"))
    context = task_prompt("region").prompt(None, "region")
    prompts = []
    for index, region in enumerate(checked_list(where, regions, "regions")):
        place = f"{where} (image {image_id}), region {index}"
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
        raise BadRecordError("no regions", where, f"image {image_id!r} has no usable region.", "Skip the image.")
    return {
        "image": str(path),
        "image_id": str(image_id),
        "width": width,
        "height": height,
        "task": task,
        "prompts": prompts,
    }
