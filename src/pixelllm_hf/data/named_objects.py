"""Objects with a name or a phrase and a box -> the prompts of a grounded row, whatever the task."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pixelllm_hf.data.bad_records import BadRecordError, OnError, ReadReport
from pixelllm_hf.data.grounded_examples import grounded_prompt
from pixelllm_hf.processing.tasks import task_spec

ObjectTask = Literal["region", "dense", "refer", "segment"]
OBJECT_TASKS = ("region", "dense", "refer", "segment")


def _no_mask(report: ReadReport, on_error: OnError) -> dict[str, Any] | None:
    return None


@dataclass(frozen=True)
class NamedObject:
    """text: its name or description. box: xyxy in pixels of the image. where: its record, for errors and counts.

    mask: makes its compressed run lengths, None if unknown, and counts what of it is bad; called for the objects that
    are used, since it is slow.
    left_out: why it is not asked for, though its text fits it: "crowd" (it stands for several objects), "difficult".
    """

    where: str
    text: str
    box: list[float]
    mask: Callable[[ReadReport, OnError], dict[str, Any] | None] = _no_mask
    left_out: str | None = None


def object_prompts(
    objects: Sequence[NamedObject], task: str, report: ReadReport, on_error: OnError
) -> list[dict[str, Any]]:
    """One prompt per object: asked by its box ("region"), to be found ("dense"), or asked by its text (the others).

    What is marked to be left out is counted. So is a text that fits several objects of the image: it asks for none.
    """
    context = task_spec("region").prompt(None)
    often = Counter(thing.text for thing in objects)
    prompts = []
    for thing in objects:
        if thing.left_out:
            report.leave_out(thing.left_out, f"{thing.where} is marked as {thing.left_out}.")
        elif task in ("region", "dense"):
            prompts.append(grounded_prompt(thing.text, box=thing.box, context=context, object_box=thing.box))
        elif often[thing.text] > 1:
            report.leave_out("ambiguous name", f"{thing.where}: {often[thing.text]} objects are {thing.text!r}.")
        else:
            try:
                mask = thing.mask(report, on_error) if task == "segment" else None
            except BadRecordError as error:
                report.drop(error, on_error)
                continue
            prompts.append(expression_prompt(thing.text, thing.box, mask))
    return prompts


def expression_prompt(text: str, box: list[float], mask: dict[str, Any] | None) -> dict[str, Any]:
    """A referring expression is question and decoder text in one; its object's box is learned, not its words."""
    return grounded_prompt(
        text,
        context=task_spec("refer").prompt(text),
        object_box=box,
        mask=mask,
        text_loss=False,
        point_loss=True,
    )
