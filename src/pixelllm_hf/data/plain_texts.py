"""Captions without the marks that people set or leave out: no full stop at the end, no mark that stands alone."""

from __future__ import annotations

import re
from typing import Any

_ENDS = re.compile(r"[\s.!;:,]+$")
_ALONE = re.compile(r"(?:(?<=\s)|^)[^\w\s]+(?=\s|$)", re.ASCII)
_BLANK_BEFORE_COMMA = re.compile(r"\s+(?=,(?:\s|$))")


def plain_text(text: str) -> str:
    """The text with single blanks, commas at their words and no mark at its end; empty where it is nothing but marks.

    >>> plain_text('A man , in a "red" hat -- is smiling .')
    'A man, in a "red" hat is smiling'
    """
    text = _BLANK_BEFORE_COMMA.sub("", text)
    return _ENDS.sub("", " ".join(_ALONE.sub(" ", text).split()))


def plain_prompt(prompt: dict[str, Any]) -> dict[str, Any]:
    """The prompt of a grounded row with a plain target; one that would say nothing stays as it is."""
    target = plain_text(prompt["target"])
    if not target:
        return prompt
    utterances = [{**utterance, "text": plain_text(utterance["text"])} for utterance in prompt["utterances"]]
    return {**prompt, "target": target, "utterances": utterances}
