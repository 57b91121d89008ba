"""COCO captions -> grounded rows without places: whole-image captioning (spec section 11.2)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datasets import Dataset, IterableDataset

from pixelllm_hf.data.bad_records import BadRecordError, OnError, ReadReport, check_on_error
from pixelllm_hf.data.coco_files import CocoFile
from pixelllm_hf.data.grounded_examples import build_dataset, grounded_prompt
from pixelllm_hf.data.image_folder import ImageFolder
from pixelllm_hf.data.record_fields import checked_text, required


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
        for image in CocoFile.read(annotations).by_image(report, on_error):
            try:
                captions = []
                for where, annotation in image.annotations:
                    try:
                        (caption,) = required(where, annotation, "caption")
                        captions.append(checked_text(where, caption, "the caption"))
                    except BadRecordError as error:
                        report.drop(error, on_error)
                if not captions:
                    raise BadRecordError(
                        "no captions", image.where, f"image {image.id!r:.80} has no caption.", "Use on_error='skip'."
                    )
                path = image.find_in(folder)
            except BadRecordError as error:
                report.drop(error, on_error)
                continue
            yield {
                "image": str(path),
                "image_id": str(image.id),
                "width": image.size_wh[0],
                "height": image.size_wh[1],
                "task": "caption",
                "prompts": [grounded_prompt(caption) for caption in captions],
            }

    return build_dataset(rows, streaming=streaming, report=report)
