"""Visual Genome region descriptions -> grounded rows (spec section 11.2)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datasets import Dataset, IterableDataset

from pixelllm_hf.data.grounded_examples import (
    BadRecordError,
    ImageFolder,
    OnError,
    ReadReport,
    build_dataset,
    check_on_error,
    checked_xywh,
    grounded_prompt,
    required,
)
from pixelllm_hf.processing.task_prompts import task_prompt


def read_visual_genome(
    regions: str | Path,
    image_data: str | Path,
    images: str | Path,
    *,
    streaming: bool = False,
    on_error: OnError = "raise",
    check_images: bool = False,
    report: ReadReport | None = None,
) -> Dataset | IterableDataset:
    """Rows of task "region", one per image: each region's box is the prompt and its phrase the target.

    regions, image_data: the official region_descriptions.json and image_data.json.
    check_images: decode every image while reading, so that damaged files are bad records too.
    A bad region is dropped from its image; an image left without regions is dropped too (both are counted).
    """
    check_on_error(on_error)
    folder = ImageFolder(images, check=check_images)

    def rows(report: ReadReport) -> Iterator[dict[str, Any]]:
        known = {record["image_id"]: record for record in load_json(image_data, list)}
        for index, record in enumerate(load_json(regions, list)):
            where = f"{regions}, record {index}"
            try:
                yield _row(where, record, known, folder, on_error, report)
            except BadRecordError as error:
                report.drop(error, on_error)

    return build_dataset(rows, streaming=streaming, report=report)


def load_json(path: str | Path, kind: type) -> Any:
    """The parsed file, whose outermost value must be a `kind` (list or dict)."""
    try:
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not JSON ({error}). Was it downloaded whole?") from error
    if not isinstance(content, kind):
        raise ValueError(f"{path} must hold a {kind.__name__}, but it holds a {type(content).__name__}.")
    return content


def _row(
    where: str,
    record: dict[str, Any],
    image_data: dict[Any, dict[str, Any]],
    folder: ImageFolder,
    on_error: OnError,
    report: ReadReport,
) -> dict[str, Any]:
    image_id, regions = required(where, record, "id", "regions")
    if image_id not in image_data:
        raise BadRecordError(
            "missing image", where, f"image {image_id!r} is not in the image data.", "Pass the matching file."
        )
    about = image_data[image_id]
    width, height = required(where, about, "width", "height")
    path = folder.find(where, image_id, Path(about.get("url") or "").name)
    context = task_prompt("region").prompt(None, "region")
    prompts = []
    for index, region in enumerate(regions):
        place = f"{where} (image {image_id}), region {index}"
        try:
            phrase, x, y, w, h = required(place, region, "phrase", "x", "y", "width", "height")
            if not phrase.strip():
                raise BadRecordError("empty text", place, f"the phrase is {phrase!r}.", "Add the text or skip it.")
            box = checked_xywh(place, (x, y, w, h), (width, height))
        except BadRecordError as error:
            report.drop(error, on_error)
            continue
        prompts.append(grounded_prompt(phrase.strip(), box=box, context=context, object_box=box))
    if not prompts:
        raise BadRecordError("no regions", where, f"image {image_id!r} has no usable region.", "Skip the image.")
    return {
        "image": str(path),
        "image_id": str(image_id),
        "width": width,
        "height": height,
        "task": "region",
        "prompts": prompts,
    }
