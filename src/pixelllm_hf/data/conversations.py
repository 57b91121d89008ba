"""Conversations about an image (LLaVA, ShareGPT4V) -> grounded rows without locations (official.md#data-sets)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datasets import Dataset, IterableDataset

from pixelllm_hf.data.annotation_text import read_records
from pixelllm_hf.data.bad_records import BadRecordError, OnError, ReadReport, check_on_error
from pixelllm_hf.data.grounded_examples import build_dataset, grounded_prompt, grounded_row
from pixelllm_hf.data.image_folder import ImageFolder
from pixelllm_hf.data.record_fields import checked_list, checked_string, checked_text, required_one, shown
from pixelllm_hf.data.target_answers import question_prompt

# What other programs call them.
_SPEAKERS = {"user": "human", "human": "human", "assistant": "gpt", "chatgpt": "gpt", "gpt": "gpt", "system": "system"}
_IMAGE_MARKS = ("<image>\n", "\n<image>", "<image>")


def read_conversations(
    annotations: str | Path,
    images: str | Path,
    *,
    task: str = "caption",
    streaming: bool = False,
    on_error: OnError = "raise",
    check_images: bool = False,
    report: ReadReport | None = None,
) -> Dataset | IterableDataset:
    """Rows of one task, one per conversation: every question with its answer is a prompt on the whole image.

    annotations: a JSON list, or JSONL, of {"id", "image", "conversations": [{"from": "human" | "gpt", "value"}, ...]};
        chat messages with "role" and "content" do as well.
    task: "caption", or "reason" for a PixelLM: a question then stands alone in its prompt, and no answer points.
    Records without an image are left out and counted. Turns do not see each other, as in the reference.
    """
    check_on_error(on_error)
    folder = ImageFolder(images, check=check_images)

    def rows(report: ReadReport) -> Iterator[dict[str, Any]]:
        for where, record in read_records(annotations, report, on_error):
            report.read["conversations"] += 1
            try:
                turns = required_one(where, record, "conversations", "messages", "conversation")
                name = _image_name(where, record)
                if name is None:
                    report.leave_out("no image", f"{where} is a conversation without an image.")
                    continue
                path = folder.find(where, Path(name).stem, name)
                prompts = _prompts(where, turns, task, on_error, report)
                width, height = ImageFolder.size_wh(where, path)
            except BadRecordError as error:
                report.drop(error, on_error)
                continue
            # The image and not the record: several conversations of one image are rows of one image.
            yield grounded_row(path, Path(name).stem, (width, height), task, prompts)

    return build_dataset(rows, streaming=streaming, report=report)


def conversation_context(question: str) -> str:
    """The text prompt of a question; the reference puts no blank before "Answer".

    >>> conversation_context("What is this?")
    'Question: What is this?Answer: '
    """
    return f"Question: {question}Answer: "


def _image_name(where: str, record: dict[str, Any]) -> str | None:
    """The file that a conversation is about; None for one about none."""
    listed = [record[key] for key in ("image", "images") if record.get(key) not in (None, "", [])]
    listed = listed[0] if listed and isinstance(listed[0], list) else listed[:1]
    if len(listed) > 1:
        raise BadRecordError("several images", where, f"it is about {len(listed)} images.", "Skip the record.")
    return checked_text(where, listed[0], "image") if listed else None


def _prompts(where: str, turns: object, task: str, on_error: OnError, report: ReadReport) -> list[dict[str, Any]]:
    turns = checked_list(where, turns, "conversations")
    spoken = [_turn(f"{where}, turn {index}", turn) for index, turn in enumerate(turns)]
    if spoken and spoken[0][0] == "system":
        spoken = spoken[1:]
    speakers = [speaker for speaker, _ in spoken]
    if len(speakers) % 2 or speakers != ["human", "gpt"] * (len(speakers) // 2):
        raise BadRecordError(
            "turns out of order",
            where,
            f"'human' and 'gpt' must take turns, but the speakers are {shown(speakers)}.",
            "Correct the record.",
        )
    prompts = []
    for index in range(0, len(spoken), 2):
        place = f"{where}, question and answer {index // 2}"
        try:
            report.read["questions"] += 1
            question = checked_string(place, spoken[index][1], "the question")
            for mark in _IMAGE_MARKS:
                question = question.replace(mark, "")
            question = checked_text(place, question, "the question")
            answer = checked_text(place, spoken[index + 1][1], "the answer")
            if task == "reason":
                prompts.append(question_prompt(place, question, answer, []))
            else:
                prompts.append(grounded_prompt(answer, context=conversation_context(question)))
        except BadRecordError as error:
            report.drop(error, on_error)
    if not prompts:
        raise BadRecordError("no turns", where, "no usable question and answer is left.", "Skip the record.")
    return prompts


def _turn(where: str, turn: object) -> tuple[str, Any]:
    """Who speaks, under LLaVA's name, and what is said."""
    speaker = checked_string(where, required_one(where, turn, "from", "role"), "the speaker")
    return _SPEAKERS.get(speaker.lower(), speaker), required_one(where, turn, "value", "content", "text")
