"""Referring expressions (RefCOCO, RefCOCO+, RefCOCOg in UNC's layout) -> grounded rows (official.md#data-sets).

The official refs files are Python pickles, see `plain_pickle`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import cycle
from pathlib import Path
from typing import Any, Literal

from datasets import Dataset, IterableDataset

from pixelllm_hf.data.annotation_text import first_character, read_records
from pixelllm_hf.data.bad_records import (
    AnnotationFileError,
    BadRecordError,
    OnError,
    ReadReport,
    check_on_error,
    check_task,
)
from pixelllm_hf.data.coco_files import CocoFile
from pixelllm_hf.data.grounded_examples import TARGET_PLACEHOLDER, build_dataset, grounded_row, grounded_target
from pixelllm_hf.data.image_folder import ImageFolder
from pixelllm_hf.data.named_objects import expression_prompt
from pixelllm_hf.data.object_masks import checked_mask, target_mask
from pixelllm_hf.data.plain_pickle import load_plain_pickle
from pixelllm_hf.data.record_fields import (
    annotated_xywh,
    checked_id,
    checked_list,
    checked_record,
    checked_text,
    checked_xywh,
    image_size_wh,
    required,
    required_one,
    shown,
)
from pixelllm_hf.data.target_answers import listed, question_prompt

_ASKED_AT_ONCE = (6, 5, 4)  # expressions, as released


def read_referring_expressions(
    refs: str | Path,
    instances: str | Path,
    images: str | Path,
    *,
    split: str | None = None,
    task: Literal["refer", "segment", "reason"] = "refer",
    streaming: bool = False,
    on_error: OnError = "raise",
    check_images: bool = False,
    for_evaluation: bool = False,
    report: ReadReport | None = None,
) -> Dataset | IterableDataset:
    """Rows of `task`, one per image.

    "refer" and "segment": the expression is both question ("where is " + it) and decoder text.
    refs: UNC's refs file, pickle or the same content as JSON or JSONL. instances: the COCO instances it points into.
    split: keep one of the file's splits ("train", "val", "testA", ...); None keeps all, one that the file does not have
        is an `AnnotationFileError` that lists them.
    task: "segment" adds the object's mask, where the instances have one. "reason" asks for up to six expressions at
        once, each with a target: multi-referring as PixelLM is measured on (section 5), in the released order.
    check_images: decode every image while reading, so that damaged files are bad records too.
    for_evaluation: keep what official evaluation counts and nothing can be learnt from: boxes without area, masks
        without a pixel. Empty expressions are left out.
    As in the reference there is no text loss; the object's box is what is learned.
    """
    check_on_error(on_error)
    check_task(task, ("refer", "segment", "reason"))
    folder = ImageFolder(images, check=check_images)

    def rows(report: ReadReport) -> Iterator[dict[str, Any]]:
        coco = CocoFile.read(instances)
        for error in coco.bad_categories:
            report.drop(error, on_error)
        image_records = records_by_id(f"{instances}, image", coco.images, report, on_error)
        objects = records_by_id(f"{instances}, annotation", coco.annotations, report, on_error)
        by_image: dict[Any, list[tuple[str, dict[str, Any]]]] = {}
        for where, ref in of_split(read_refs(refs, report, on_error), split, refs, report, on_error):
            report.read["references"] += 1
            try:
                (image_id,) = required(where, ref, "image_id")
                by_image.setdefault(checked_id(where, image_id), []).append((where, ref))
            except BadRecordError as error:
                report.drop(error, on_error)
        for image_id, members in by_image.items():
            where = f"{refs}, image {image_id}"
            try:
                if image_id not in image_records:
                    raise BadRecordError(
                        "missing image",
                        where,
                        f"{instances} has no image {shown(image_id)}.",
                        "Pass the matching file.",
                    )
                record = image_records[image_id]
                (file_name,) = required(where, record, "file_name")
                width, height = image_size_wh(where, record)
                path = folder.find(
                    where, image_id, checked_text(where, file_name, "file_name"), size_wh=(width, height)
                )
                prompts = _prompts(members, objects, (width, height), task, on_error, report, for_evaluation)
                if not prompts and not for_evaluation:
                    raise BadRecordError("no expressions", where, "no usable expression is left.", "Skip the image.")
            except BadRecordError as error:
                report.drop(error, on_error)
                continue
            yield grounded_row(path, image_id, (width, height), task, prompts)

    return build_dataset(rows, streaming=streaming, report=report)


def read_refs(path: str | Path, report: ReadReport, on_error: OnError) -> Iterator[tuple[str, dict[str, Any]]]:
    """Where it is and what it is, for every record of a refs file: JSON, JSONL or a pickle of plain containers."""
    named_json = {".json", ".jsonl", ".ndjson"} & {suffix.lower() for suffix in Path(path).suffixes[-2:]}
    if named_json or first_character(path) in ("[", "{"):
        records = read_records(path, report, on_error, noun="ref")
    else:
        content = load_plain_pickle(path)
        if not isinstance(content, list):
            raise AnnotationFileError(f"{path} must hold a list of references, but it is {shown(content)}.")
        records = ((f"{path}, ref {index}", ref) for index, ref in enumerate(content))
    for where, ref in records:
        try:
            yield where, checked_record(where, ref)
        except BadRecordError as error:
            report.drop(error, on_error)


def load_refs(path: str | Path) -> list[dict[str, Any]]:
    """The records of a refs file. Raises `BadRecordError` for what is none."""
    return [ref for _, ref in read_refs(path, ReadReport(), "raise")]


def of_split(
    refs: Iterable[tuple[str, dict[str, Any]]],
    split: str | None,
    file: str | Path,
    report: ReadReport,
    on_error: OnError,
) -> list[tuple[str, dict[str, Any]]]:
    """The references of one split, or all; a split that the file does not have is an `AnnotationFileError`."""
    if split is None:
        return list(refs)
    known: set[str] = set()
    kept = []
    for where, ref in refs:
        try:
            own = checked_text(where, required_one(where, ref, "split"), "split")
        except BadRecordError as error:
            report.drop(error, on_error)
            continue
        known.add(own)
        if own == split:
            kept.append((where, ref))
    if split not in known:
        raise AnnotationFileError(
            f"{file} has no split {split!r}; it has {', '.join(sorted(known)) or 'none at all'}. Name one of them, or "
            "leave the split out."
        )
    return kept


def records_by_id(
    name: str, records: list[Any], report: ReadReport, on_error: OnError
) -> dict[int | str, dict[str, Any]]:
    """The records that have an id. Those that no reference asks for may be wrong in all other ways."""
    found: dict[int | str, dict[str, Any]] = {}
    for index, record in enumerate(records):
        where = f"{name} {index}"
        try:
            found[checked_id(where, required_one(where, record, "id"))] = record
        except BadRecordError as error:
            report.drop(error, on_error)
    return found


def _prompts(
    refs: list[tuple[str, dict[str, Any]]],
    annotations: dict[Any, dict[str, Any]],
    size_wh: tuple[int, int],
    task: str,
    on_error: OnError,
    report: ReadReport,
    for_evaluation: bool,
) -> list[dict[str, Any]]:
    prompts, targets = [], []
    for where, ref in refs:
        try:
            annotation_id, sentences = required(where, ref, "ann_id", "sentences")
            if checked_id(where, annotation_id) not in annotations:
                problem = f"annotation {shown(annotation_id)} is unknown."
                raise BadRecordError("missing annotation", where, problem, "Pass its instances file.")
            checked_list(where, sentences, "sentences")
            annotation = annotations[annotation_id]
            given = required_one(where, annotation, "bbox")
            box = checked_xywh(where, given, size_wh, may_be_empty=for_evaluation)
            segmentation = None if task == "refer" else annotation.get("segmentation")
            must_have_one = task == "reason" or (task == "segment" and for_evaluation)
            read_mask = target_mask if must_have_one else checked_mask
            mask = read_mask(where, segmentation, size_wh, report, on_error)
        except BadRecordError as error:
            report.drop(error, on_error)
            continue
        for sentence in sentences:
            report.read["expressions"] += 1
            try:
                said = (sentence.get("sent") or sentence.get("raw") or "") if isinstance(sentence, dict) else sentence
                text = checked_text(where, said, "an expression", may_be_empty=for_evaluation)
                if not text:
                    report.leave_out("empty text", f"{where}: an expression is empty.")
                elif task == "reason":
                    targets.append((where, grounded_target(text.lower(), box=box, mask=mask)))
                else:
                    prompts.append(expression_prompt(text, box, mask, annotation_box=annotated_xywh(where, given)))
            except BadRecordError as error:
                report.drop(error, on_error)
    return _multi_referring(targets, on_error, report) if task == "reason" else prompts


def _multi_referring(
    targets: list[tuple[str, dict[str, Any]]], on_error: OnError, report: ReadReport
) -> list[dict[str, Any]]:
    """Questions about 6, 5, 4, 6, … of the expressions of an image, in their order; the answer points without words."""
    prompts, sizes = [], cycle(_ASKED_AT_ONCE)
    while targets:
        number = next(sizes)
        chosen, targets = targets[:number], targets[number:]
        asked = [target for _, target in chosen]
        question = f"What is {listed([target['name'] for target in asked])} in this image?"
        answer = f"{listed([TARGET_PLACEHOLDER] * len(asked))}."
        try:
            prompts.append(question_prompt(chosen[0][0], question, answer, asked))
        except BadRecordError as error:
            report.drop(error, on_error)
    return prompts
