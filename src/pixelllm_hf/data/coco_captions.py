"""COCO captions -> grounded rows without places: whole-image captioning (spec section 11.2)."""

from __future__ import annotations

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
    grounded_prompt,
    required,
)
from pixelllm_hf.data.visual_genome import load_json


def read_coco_captions(
    annotations: str | Path,
    images: str | Path,
    *,
    streaming: bool = False,
    on_error: OnError = "raise",
    check_images: bool = False,
    report: ReadReport | None = None,
) -> Dataset | IterableDataset:
    """Rows of task "caption", one per image with all its captions as prompts on the whole image.

    check_images: decode every image while reading, so that damaged files are bad records too.
    annotations: the official captions JSON. Images without a caption are left out and counted.
    """
    check_on_error(on_error)
    folder = ImageFolder(images, check=check_images)

    def rows(report: ReadReport) -> Iterator[dict[str, Any]]:
        coco = load_json(annotations, dict)
        captions: dict[Any, list[str]] = {}
        for index, annotation in enumerate(coco.get("annotations", [])):
            where = f"{annotations}, annotation {index}"
            try:
                image_id, caption = required(where, annotation, "image_id", "caption")
                if not str(caption).strip():
                    raise BadRecordError("empty caption", where, f"the caption is {caption!r}.", "Skip the record.")
            except BadRecordError as error:
                report.drop(error, on_error)
                continue
            captions.setdefault(image_id, []).append(str(caption).strip())
        for index, image in enumerate(coco.get("images", [])):
            where = f"{annotations}, image {index}"
            try:
                image_id, width, height = required(where, image, "id", "width", "height")
                if image_id not in captions:
                    raise BadRecordError(
                        "no captions", where, f"image {image_id!r} has no caption.", "Use on_error='skip'."
                    )
                path = folder.find(where, image_id, image.get("file_name"))
            except BadRecordError as error:
                report.drop(error, on_error)
                continue
            yield {
                "image": str(path),
                "image_id": str(image_id),
                "width": width,
                "height": height,
                "task": "caption",
                "prompts": [grounded_prompt(caption) for caption in captions[image_id]],
            }

    return build_dataset(rows, streaming=streaming, report=report)
