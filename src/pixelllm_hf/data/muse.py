"""MUSE's questions, whose answers point at objects of COCO images -> grounded rows of task "reason".

Source: PixelLM (arXiv 2312.02228), section 4; files `muse_train.json`, `muse_val.json`, `muse_test_less.json`,
`muse_test_many.json`. The scenes of `pixelllm_hf.data.scenes` have questions in the same layout.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from datasets import Dataset, IterableDataset

from pixelllm_hf.data.annotation_text import read_records
from pixelllm_hf.data.bad_records import BadRecordError, OnError, ReadReport, check_on_error
from pixelllm_hf.data.grounded_examples import build_dataset, grounded_row, grounded_target
from pixelllm_hf.data.image_folder import ImageFolder
from pixelllm_hf.data.object_masks import target_mask
from pixelllm_hf.data.record_fields import (
    checked_id,
    checked_list,
    checked_record,
    checked_string,
    checked_text,
    checked_xywh,
    image_size_wh,
    required,
    required_one,
    shown,
)
from pixelllm_hf.data.target_answers import named_answer, question_prompt


def read_muse(
    annotations: str | Path,
    images: str | Path,
    *,
    streaming: bool = False,
    on_error: OnError = "raise",
    check_images: bool = False,
    report: ReadReport | None = None,
) -> Dataset | IterableDataset:
    """Rows of task "reason", one per record: a prompt for every question, with the targets in the answer's order.

    The answer is the stored sentence, or where there is none one that names the targets. A question of which one target
    is bad is dropped whole: without it the answer would not be true. Records without questions are left out.
    images: the folder of COCO's train2014, train2017 and val2017, or one of them, or one with all images.
    """
    check_on_error(on_error)
    folder = ImageFolder(images, check=check_images)

    def rows(report: ReadReport) -> Iterator[dict[str, Any]]:
        for where, record in read_records(annotations, report, on_error):
            report.read["images"] += 1
            try:
                if not checked_record(where, record).get("questions"):
                    report.leave_out("image without questions", f"{where} asks nothing.")
                    continue
                size_wh = image_size_wh(where, record)
                image_id, path = _image(where, record, folder, size_wh)
                asked = _asked(where, record)
            except BadRecordError as error:
                report.drop(error, on_error)
                continue
            prompts = []
            for index, (question, answer, text) in enumerate(asked):
                report.read["questions"] += 1
                try:
                    place = f"{where}, question {index}"
                    key = f"{image_id} {index}"
                    prompts.append(_prompt(place, question, answer, text, size_wh, key, on_error, report))
                except BadRecordError as error:
                    report.drop(error, on_error)
            if prompts:
                yield grounded_row(path, image_id, size_wh, "reason", prompts)

    return build_dataset(rows, streaming=streaming, report=report)


def _image(where: str, record: dict[str, Any], folder: ImageFolder, size_wh: tuple[int, int]) -> tuple[int | str, Path]:
    """Id and file: by the name in train2014, or by the URL, whose tail is a file of train2017 or val2017."""
    names = [
        checked_string(where, record[key], key) for key in ("file_name", "coco_url") if record.get(key) is not None
    ]
    names = [name for name in names if name]
    if not names:
        raise BadRecordError("missing key", where, "the record has no file_name or coco_url.", "Add one.")
    image_id = checked_id(where, record["id"]) if "id" in record else PurePosixPath(names[0]).stem
    return image_id, folder.find(where, image_id, *names, size_wh=size_wh)


def _asked(where: str, record: dict[str, Any]) -> list[tuple[Any, Any, Any]]:
    """Question, targets and text of each answer; lists of different lengths belong to nothing."""
    questions, answers = (
        checked_list(where, value, name)
        for name, value in zip(("questions", "answers"), required(where, record, "questions", "answers"), strict=True)
    )
    texts = record.get("text_answers")
    texts = [None] * len(answers) if texts is None else checked_list(where, texts, "text_answers")
    if not len(questions) == len(answers) == len(texts):
        raise BadRecordError(
            "unpaired answers",
            where,
            f"there are {len(questions)} questions, {len(answers)} answers and {len(texts)} text answers.",
            "Give every question its answer.",
        )
    return list(zip(questions, answers, texts, strict=True))


def _prompt(
    where: str,
    question: Any,
    answer: Any,
    text: Any,
    size_wh: tuple[int, int],
    key: str,
    on_error: OnError,
    report: ReadReport,
) -> dict[str, Any]:
    targets = [
        _target(f"{where}, target {index}", record, size_wh, on_error, report)
        for index, record in enumerate(checked_list(where, answer, "an answer"))
    ]
    report.read["targets"] += len(targets)
    if text is None:
        written = named_answer([target["name"] for target in targets], key)
    else:
        written = checked_text(where, text, "the text of an answer")
    return question_prompt(where, checked_text(where, question, "a question"), written, targets)


def _target(where: str, record: Any, size_wh: tuple[int, int], on_error: OnError, report: ReadReport) -> dict[str, Any]:
    (segmentation,) = required(where, record, "segmentation")
    named = [record[key] for key in ("rephrased_name", "category_name") if record.get(key)]
    if not named:
        required_one(where, record, "rephrased_name", "category_name")
        raise BadRecordError("empty text", where, f"the target has no name (it is {shown(record)}).", "Add it.")
    box = None if record.get("bbox") is None else checked_xywh(where, record["bbox"], size_wh)
    mask = target_mask(where, segmentation, size_wh, report, on_error)
    return grounded_target(checked_text(where, named[0], "the name of a target"), box=box, mask=mask)
