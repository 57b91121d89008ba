"""GRiT's dense captions (COCO layout, a caption per box) -> grounded rows (official.md#data-sets)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from datasets import Dataset, IterableDataset

from pixelllm_hf.data.bad_records import BadRecordError, OnError, ReadReport, check_on_error, check_task
from pixelllm_hf.data.coco_files import CocoFile
from pixelllm_hf.data.grounded_examples import build_dataset, grounded_row
from pixelllm_hf.data.image_folder import ImageFolder
from pixelllm_hf.data.named_objects import NamedObject, object_prompts
from pixelllm_hf.data.record_fields import annotated_xywh, checked_text, checked_xywh, required


def read_grit_captions(
    annotations: str | Path,
    images: str | Path,
    *,
    task: Literal["dense", "region"] = "dense",
    streaming: bool = False,
    on_error: OnError = "raise",
    check_images: bool = False,
    for_evaluation: bool = False,
    report: ReadReport | None = None,
) -> Dataset | IterableDataset:
    """Rows of `task`, one per image: its boxes with their captions, in the file's order.

    A bad annotation is dropped from its image; an image left without any is dropped too (both are counted).
    for_evaluation: keep what official evaluation counts and nothing can be learnt from: boxes without area, empty
        captions, images without any.
    """
    check_on_error(on_error)
    check_task(task, ("dense", "region"))
    folder = ImageFolder(images, check=check_images)

    def rows(report: ReadReport) -> Iterator[dict[str, Any]]:
        for image in CocoFile.read(annotations).by_image(report, on_error):
            try:
                path = image.find_in(folder)
                objects = []
                for where, record in image.annotations:
                    try:
                        box, caption = required(where, record, "bbox", "caption")
                        text = checked_text(where, caption, "caption", may_be_empty=for_evaluation)
                        known = checked_xywh(where, box, image.size_wh, may_be_empty=for_evaluation)
                        objects.append(NamedObject(where, text, known, annotation_box=annotated_xywh(where, box)))
                    except BadRecordError as error:
                        report.drop(error, on_error)
                if not objects and not for_evaluation:
                    raise BadRecordError(
                        "no regions", image.where, f"image {image.id!r} has no usable caption.", "Skip the image."
                    )
            except BadRecordError as error:
                report.drop(error, on_error)
                continue
            yield grounded_row(path, image.id, image.size_wh, task, object_prompts(objects, task, report, on_error))

    return build_dataset(rows, streaming=streaming, report=report)
