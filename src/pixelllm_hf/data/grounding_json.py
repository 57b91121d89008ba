"""Referring expressions in MDETR's and UNINEXT's JSON -> grounded rows (official.md#data-sets).

Both are COCO files in which an image record stands for a sentence, or a few, about the image: the same image comes
many times under different ids. MDETR has one `caption` and the objects it speaks of, each with the characters that
name it; UNINEXT has `expressions` of one object.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from datasets import Dataset, IterableDataset

from pixelllm_hf.data.bad_records import BadRecordError, OnError, ReadReport, check_on_error, check_task
from pixelllm_hf.data.coco_files import CocoFile, CocoImage
from pixelllm_hf.data.grounded_examples import build_dataset, grounded_row
from pixelllm_hf.data.image_folder import ImageFolder
from pixelllm_hf.data.named_objects import expression_prompt
from pixelllm_hf.data.object_masks import checked_mask
from pixelllm_hf.data.record_fields import (
    annotated_xywh,
    checked_id,
    checked_list,
    checked_text,
    checked_xywh,
    required,
    shown,
)


def read_grounding_json(
    annotations: str | Path,
    images: str | Path,
    *,
    task: Literal["refer", "segment"] = "refer",
    streaming: bool = False,
    on_error: OnError = "raise",
    check_images: bool = False,
    report: ReadReport | None = None,
) -> Dataset | IterableDataset:
    """Rows of `task`, one per image, with all expressions that the file has about it.

    A caption about one object is its expression. Of a caption about several, each takes the words that name it
    (`tokens_positive`, from the first character to the last, as in the reference).
    task: "segment" adds the objects' masks, where the file has them.
    """
    check_on_error(on_error)
    check_task(task, ("refer", "segment"))
    folder = ImageFolder(images, check=check_images)

    def rows(report: ReadReport) -> Iterator[dict[str, Any]]:
        coco = CocoFile.read(annotations)
        by_file: dict[str, list[CocoImage]] = {}
        for image in coco.by_image(report, on_error):
            try:
                (file_name,) = required(image.where, image.record, "file_name")
                by_file.setdefault(checked_text(image.where, file_name, "file_name"), []).append(image)
            except BadRecordError as error:
                report.drop(error, on_error)
        for file_name, members in by_file.items():
            first = members[0]
            try:
                image_id = _image_id(first.where, first.record, file_name)
                path = folder.find(first.where, image_id, file_name, size_wh=first.size_wh)
                prompts = []
                for image in members:
                    if image.size_wh != first.size_wh:
                        problem = f"{file_name!r} is {image.size_wh} here and {first.size_wh} in {first.where}."
                        report.drop(BadRecordError("two sizes", image.where, problem, "Correct one."), on_error)
                        continue
                    prompts += _prompts(image, task == "segment", on_error, report)
                if not prompts:
                    raise BadRecordError(
                        "no expressions", first.where, f"no usable expression about {file_name!r} is left.", "Skip it."
                    )
            except BadRecordError as error:
                report.drop(error, on_error)
                continue
            yield grounded_row(path, image_id, first.size_wh, task, prompts)

    return build_dataset(rows, streaming=streaming, report=report)


def _prompts(image: CocoImage, with_masks: bool, on_error: OnError, report: ReadReport) -> list[dict[str, Any]]:
    prompts = []
    for where, annotation in image.annotations:
        try:
            (bbox,) = required(where, annotation, "bbox")
            box = checked_xywh(where, bbox, image.size_wh)
            segmentation = annotation.get("segmentation") if with_masks else None
            mask = checked_mask(where, segmentation, image.size_wh, report, on_error)
            expressions = _expressions(where, image, annotation)
        except BadRecordError as error:
            report.drop(error, on_error)
            continue
        for expression in expressions:
            try:
                text = checked_text(where, expression, "the expression")
                prompts.append(expression_prompt(text, box, mask, annotation_box=annotated_xywh(where, bbox)))
            except BadRecordError as error:
                report.drop(error, on_error)
    return prompts


def _expressions(where: str, image: CocoImage, annotation: dict[str, Any]) -> list[Any]:
    """What the image record says of this object."""
    if "expressions" in image.record:
        if len(image.annotations) > 1:
            raise BadRecordError(
                "ambiguous expression",
                where,
                f"the expressions of {image.where} are about one of its {len(image.annotations)} objects.",
                "Give every object an image record of its own.",
            )
        return checked_list(image.where, image.record["expressions"], "expressions")
    (caption,) = required(image.where, image.record, "caption")
    if len(image.annotations) == 1:
        return [caption]
    caption = checked_text(image.where, caption, "caption")
    (spans,) = required(where, annotation, "tokens_positive")
    pairs = spans if isinstance(spans, list) else []
    whole = all(isinstance(pair, list) and len(pair) == 2 and all(type(at) is int for at in pair) for pair in pairs)
    if not pairs or not whole:
        raise BadRecordError(
            "malformed span",
            where,
            f"tokens_positive must be [[start, end], ...] in the caption, but it is {shown(spans)}.",
            "Correct it.",
        )
    start, end = min(pair[0] for pair in pairs), max(pair[1] for pair in pairs)
    if not 0 <= start < end <= len(image.record["caption"]):
        raise BadRecordError(
            "malformed span",
            where,
            f"characters {shown(start)}..{shown(end)} are not in the caption {shown(caption)}.",
            "Correct it.",
        )
    return [image.record["caption"][start:end]]


def _image_id(where: str, record: dict[str, Any], file_name: str) -> str:
    """The image's own id: the file's `id` numbers sentences."""
    for key in ("original_id", "original_img_id"):
        if key in record:
            return str(checked_id(where, record[key]))
    digits = re.search(r"(\d+)$", Path(file_name).stem)
    return str(int(digits[1])) if digits else Path(file_name).stem
