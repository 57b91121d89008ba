"""Answers that point at several objects: texts with a placeholder behind each, as PixelLM's training writes them.

Source: PixelLM (arXiv 2312.02228); the released templates draw one of a list each time, here the image decides.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any

from pixelllm_hf.data.bad_records import BadRecordError
from pixelllm_hf.data.grounded_examples import TARGET_PLACEHOLDER, grounded_prompt
from pixelllm_hf.data.record_fields import shown

_SEG = TARGET_PLACEHOLDER
_ONE = (f"It is {_SEG}.", f"Sure, {_SEG}.", f"Sure, it is {_SEG}.", f"Sure, the segmentation result is {_SEG}.")
_SEVERAL = ("They are {segs}.", "Sure, they are {segs}.", "{segs}.")


def question_prompt(
    where: str, question: str, answer: str, targets: Sequence[dict[str, Any]], **given: Any
) -> dict[str, Any]:
    """The prompt of a row of task "reason". An answer with another number of placeholders is a `BadRecordError`."""
    if answer.count(TARGET_PLACEHOLDER) != len(targets):
        raise BadRecordError(
            "placeholders and targets differ",
            where,
            f"the answer {shown(answer)} has {answer.count(TARGET_PLACEHOLDER)} {TARGET_PLACEHOLDER} for "
            f"{len(targets)} target(s).",
            "Give every target its placeholder, in order.",
        )
    return grounded_prompt(answer, context=question, targets=list(targets), **given)


def named_answer(names: Sequence[str], key: str) -> str:
    """A sentence that names the targets; key: the same one gives the same wording.

    Half of them point behind every name, the others list the names first.

    >>> named_answer(["a cup", "a knife"], "3")
    'a cup is {seg} and a knife is {seg}.'
    """
    if not names:
        return "There is none."
    choice = _choice(key, 16)
    if choice % 2 or len(names) == 1:
        return f"{listed([f'{name} is {_SEG}' for name in names])}."
    lead = ("", "Sure, ")[choice >> 1 & 1] + ("", "the segmentation results of ")[choice >> 2 & 1]
    tail = ("", ", separately")[choice >> 3]
    return f"{lead}{listed(names)} are {listed([_SEG] * len(names))}{tail}."


def plain_answer(number: int, key: str) -> str:
    """A sentence that points at so many targets without naming them.

    >>> plain_answer(3, "b")
    '{seg}, {seg} and {seg}.'
    """
    if number == 0:
        return "There is none."
    if number == 1:
        return _ONE[_choice(key, len(_ONE))]
    return _SEVERAL[_choice(key, len(_SEVERAL))].replace("{segs}", listed([_SEG] * number))


def listed(items: Sequence[str]) -> str:
    """As a list is read out.

    >>> listed(["a", "b", "c"])
    'a, b and c'
    """
    return " and ".join([", ".join(items[:-1]), items[-1]]) if len(items) > 1 else "".join(items)


def _choice(key: str, number: int) -> int:
    return zlib.crc32(key.encode("utf-8", "backslashreplace")) % number


__all__ = ["listed", "named_answer", "plain_answer", "question_prompt"]
