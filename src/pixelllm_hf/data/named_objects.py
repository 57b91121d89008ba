"""Objects with a name or a phrase and a box -> the prompts of a grounded row, whatever the task.

Task "reason" asks about the names as PixelLM's training does with semantic segmentation (arXiv 2312.02228, section 5):
"where are the sky, a tree and the road?", with one mask for all objects of a name.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, Literal

import numpy as np

from pixelllm_hf.data.bad_records import BadRecordError, OnError, ReadReport
from pixelllm_hf.data.grounded_examples import grounded_prompt, grounded_target
from pixelllm_hf.data.target_answers import listed, named_answer, question_prompt
from pixelllm_hf.processing.mask_codec import decode_rle, encode_rle
from pixelllm_hf.processing.tasks import task_spec

ObjectTask = Literal["region", "dense", "refer", "segment", "reason"]
OBJECT_TASKS = ("region", "dense", "refer", "segment", "reason")
MOST_NAMES = 3  # in a question of task "reason", as released


def _no_mask(report: ReadReport, on_error: OnError) -> dict[str, Any] | None:
    return None


@dataclass(frozen=True)
class NamedObject:
    """text: its name or description. box: xyxy in pixels of the image. where: its record, for errors and counts.

    mask: makes its compressed run lengths, None if unknown, and counts what of it is bad; called for the objects that
    are used, since it is slow.
    left_out: why it is not asked for, though its text fits it: "crowd" (it stands for several objects), "difficult".
    annotation_box: x, y, w, h as annotated, None if unknown.
    """

    where: str
    text: str
    box: list[float]
    mask: Callable[[ReadReport, OnError], dict[str, Any] | None] = _no_mask
    left_out: str | None = None
    annotation_box: Sequence[float] | None = None


def object_prompts(
    objects: Sequence[NamedObject],
    task: str,
    report: ReadReport,
    on_error: OnError,
    *,
    key: str = "",
    for_evaluation: bool = False,
) -> list[dict[str, Any]]:
    """One prompt per object: asked by its box ("region"), to be found ("dense"), or asked by its text (the others).

    What is marked to be left out is counted. So is a text that fits several objects of the image: it asks for none.
    "reason" is another way: see `name_questions`; key: the image's id.
    for_evaluation: what is left out of the objects to find stays among them, marked as a crowd.
    """
    if task == "reason":
        return name_questions(objects, key, report, on_error)
    context = task_spec("region").prompt(None)
    often = Counter(thing.text for thing in objects)
    prompts = []
    for thing in objects:
        kept_as_crowd = bool(thing.left_out) and for_evaluation and task in ("region", "dense")
        if thing.left_out and not kept_as_crowd:
            report.leave_out(thing.left_out, f"{thing.where} is marked as {thing.left_out}.")
        elif task in ("region", "dense"):
            prompts.append(
                grounded_prompt(
                    thing.text,
                    box=thing.box,
                    context=context,
                    object_box=thing.box,
                    annotation_box=thing.annotation_box,
                    crowd=kept_as_crowd,
                )
            )
        elif often[thing.text] > 1:
            report.leave_out("ambiguous name", f"{thing.where}: {often[thing.text]} objects are {thing.text!r}.")
        else:
            try:
                mask = thing.mask(report, on_error) if task == "segment" else None
            except BadRecordError as error:
                report.drop(error, on_error)
                continue
            prompts.append(expression_prompt(thing.text, thing.box, mask, annotation_box=thing.annotation_box))
    return prompts


def expression_prompt(
    text: str, box: list[float], mask: dict[str, Any] | None, *, annotation_box: Sequence[float] | None = None
) -> dict[str, Any]:
    """A referring expression is question and decoder text in one; its object's box is learned, not its words."""
    return grounded_prompt(
        text,
        context=task_spec("refer").prompt(text),
        object_box=box,
        annotation_box=annotation_box,
        mask=mask,
        text_loss=False,
        point_loss=True,
    )


def name_questions(
    objects: Sequence[NamedObject], key: str, report: ReadReport, on_error: OnError
) -> list[dict[str, Any]]:
    """Questions about all names in an image, each about one to three of them; a target is all objects of a name.

    Their order and grouping are drawn by the key, so that they are always the same for an image. A name of which one
    object is to be left out or has no usable mask asks for nothing: its mask would not be whole.
    """
    by_name: dict[str, list[NamedObject]] = {}
    for thing in objects:
        by_name.setdefault(thing.text, []).append(thing)
    found = []
    for things in by_name.values():
        if left_out := next((thing for thing in things if thing.left_out), None):
            why = f"{left_out.where} is marked as {left_out.left_out}, so that nothing is asked about its name."
            report.leave_out(str(left_out.left_out), why)
            continue
        try:
            found.append((things[0].where, _target_of(things, report, on_error)))
        except BadRecordError as error:
            report.drop(error, on_error)
    random = Random(zlib.crc32(key.encode("utf-8", "backslashreplace")))
    random.shuffle(found)
    prompts = []
    while found:
        number = random.randint(1, MOST_NAMES)
        chosen, found = found[:number], found[number:]
        targets = [target for _, target in chosen]
        names = [target["name"] for target in targets]
        question = f"Can you segment the {listed(names)} in this image?"
        try:
            prompts.append(question_prompt(chosen[0][0], question, named_answer(names, key + question), targets))
        except BadRecordError as error:
            report.drop(error, on_error)
    return prompts


def _target_of(things: Sequence[NamedObject], report: ReadReport, on_error: OnError) -> dict[str, Any]:
    """All objects of a name as one target."""
    masks = []
    for thing in things:
        mask = thing.mask(report, on_error)
        if mask is None:
            problem = f"the object {thing.text!r} has no mask."
            raise BadRecordError("missing mask", thing.where, problem, "Add it or skip it.")
        masks.append(mask)
    mask = masks[0] if len(masks) == 1 else encode_rle(np.any([decode_rle(one) for one in masks], axis=0))
    corners = np.array([thing.box for thing in things])
    box = [*corners[:, :2].min(axis=0).tolist(), *corners[:, 2:].max(axis=0).tolist()]
    return grounded_target(things[0].text, box=box, mask=mask)
