"""Conversations about an image (LLaVA, ShareGPT4V) -> grounded rows without places (spec section 11.2)."""

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
    checked_list,
    checked_text,
    grounded_prompt,
    load_json,
    required,
)

_IMAGE_MARKS = ("<image>\n", "\n<image>", "<image>")


def read_conversations(
    annotations: str | Path,
    images: str | Path,
    *,
    streaming: bool = False,
    on_error: OnError = "raise",
    check_images: bool = False,
    report: ReadReport | None = None,
) -> Dataset | IterableDataset:
    """Rows of task "caption", one per conversation: every question with its answer is a prompt on the whole image.

    annotations: a list of {"id", "image", "conversations": [{"from": "human" | "gpt", "value"}, ...]}.
    Records without an image are left out and counted. Turns do not see each other, as in the reference.
    """
    check_on_error(on_error)
    folder = ImageFolder(images, check=check_images)

    def rows(report: ReadReport) -> Iterator[dict[str, Any]]:
        for index, record in enumerate(load_json(annotations, list)):
            where = f"{annotations}, record {index}"
            report.read["conversations"] += 1
            try:
                (turns,) = required(where, record, "conversations")
                file_name = record.get("image")
                if not file_name:
                    report.leave_out("no image", f"{where} is a conversation without an image.")
                    continue
                name = checked_text(where, file_name, "image")
                path = folder.find(where, record.get("id", name), name)
                prompts = _prompts(where, turns, on_error, report)
                width, height = ImageFolder.size_wh(where, path)
            except BadRecordError as error:
                report.drop(error, on_error)
                continue
            yield {
                "image": str(path),
                # The picture and not the record: several conversations of one picture are rows of one image.
                "image_id": Path(name).stem,
                "width": width,
                "height": height,
                "task": "caption",
                "prompts": prompts,
            }

    return build_dataset(rows, streaming=streaming, report=report)


def conversation_context(question: str) -> str:
    """The text prompt of a question; the reference puts no blank before "Answer".

    >>> conversation_context("What is this?")
    'Question: What is this?Answer: '
    """
    return f"Question: {question}Answer: "


def _prompts(where: str, turns: object, on_error: OnError, report: ReadReport) -> list[dict[str, Any]]:
    turns = checked_list(where, turns, "conversations")
    spoken = [required(f"{where}, turn {index}", turn, "from", "value") for index, turn in enumerate(turns)]
    speakers = [speaker for speaker, _ in spoken]
    if len(speakers) % 2 or speakers != ["human", "gpt"] * (len(speakers) // 2):
        raise BadRecordError(
            "turns out of order",
            where,
            f"'human' and 'gpt' must take turns, but the speakers are {speakers!r:.80}.",
            "Correct the record.",
        )
    prompts = []
    for index in range(0, len(spoken), 2):
        place = f"{where}, turn {index}"
        try:
            report.read["questions"] += 1
            question = spoken[index][1]
            for mark in _IMAGE_MARKS if isinstance(question, str) else ():
                question = question.replace(mark, "")
            question = checked_text(place, question, "the question")
            answer = checked_text(f"{where}, turn {index + 1}", spoken[index + 1][1], "the answer")
        except BadRecordError as error:
            report.drop(error, on_error)
            continue
        prompts.append(grounded_prompt(answer, context=conversation_context(question)))
    if not prompts:
        raise BadRecordError("no turns", where, "no usable question and answer is left.", "Skip the record.")
    return prompts
