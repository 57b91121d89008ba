"""A link that asks again what is seen: example, task, prompt and model as the query of the page's address."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlencode

from .limits import Limits, checked_whole
from .refusals import RefusedError

_EXAMPLE = re.compile(r"[\w-]{1,64}", re.ASCII)
_TASK = re.compile(r"[a-z]{1,16}")
_NUMBER = re.compile(r"-?\d{1,6}(\.\d{1,3})?", re.ASCII)
_NAMES = ("example", "task", "prompt", "box", "point", "beams", "model")


@dataclass(frozen=True)
class SharedView:
    """What was asked of an example, which is named: nothing of a visitor is in a link. box, point: original pixels.

    beams: None is the model's own.
    """

    example: str | None = None
    task: str = "caption"
    prompt: str = ""
    box: tuple[float, ...] | None = None
    point: tuple[float, ...] | None = None
    beams: int | None = None
    model: str = ""

    def query(self) -> str:
        """The part of the link from the question mark on.

        >>> SharedView(example="scene", task="refer", prompt="the duck & me").query()
        '?example=scene&task=refer&prompt=the+duck+%26+me'
        """
        given: dict[str, str] = {
            "example": self.example or "",
            "task": self.task,
            "prompt": self.prompt,
            "box": _joined(self.box),
            "point": _joined(self.point),
            "beams": "" if self.beams is None else str(self.beams),
            "model": self.model,
        }
        return "?" + urlencode({name: value for name, value in given.items() if value})


def read_query(pairs: Sequence[tuple[str, str]], limits: Limits) -> SharedView | None:
    """What a link asks for, None if it asks nothing; a `RefusedError` for anything that `query` would not write.

    Names that begin with two underscores belong to gradio. Whether the example, the task and the model exist is for
    the caller to see.
    """
    ours = [(name, value) for name, value in pairs if not name.startswith("__")]
    given: dict[str, str] = {}
    for name, value in ours:
        if name not in _NAMES or name in given:
            problem = "says something twice" if name in given else "says something that this page does not know"
            raise RefusedError(f"the link {problem}, so it was not followed. Make it again with “Link to this view”.")
        given[name] = value
    if not given:
        return None
    prompt = given.get("prompt", "")
    if len(prompt) > limits.letters:
        raise RefusedError(f"the link's prompt is longer than {limits.letters} letters, so it was not followed.")
    beams = given.get("beams")
    return SharedView(
        example=_matching(_EXAMPLE, given, "example"),
        task=_matching(_TASK, given, "task") or "caption",
        prompt=prompt,
        box=_split(given.get("box"), 4),
        point=_split(given.get("point"), 2),
        beams=None if beams is None else checked_whole(_whole(beams), 1, limits.beams, "the beams"),
        model=given.get("model", "")[:200],
    )


def _matching(pattern: re.Pattern[str], given: Mapping[str, str], name: str) -> str | None:
    value = given.get(name)
    if value is not None and not pattern.fullmatch(value):
        raise RefusedError(f"the link's {name} is not one that this page writes, so it was not followed.")
    return value


def _whole(text: str) -> int | None:
    return int(text) if text.isdecimal() and len(text) < 4 else None


def _joined(numbers: Sequence[float] | None) -> str:
    return "" if numbers is None else ",".join(f"{round(number, 1):g}" for number in numbers)


def _split(text: str | None, count: int) -> tuple[float, ...] | None:
    if text is None:
        return None
    parts = text.split(",", count)
    if len(parts) != count or not all(_NUMBER.fullmatch(part) for part in parts):
        raise RefusedError(f"the link's place must be {count} numbers in pixels, so it was not followed.")
    return tuple(float(part) for part in parts)


__all__ = ["SharedView", "read_query"]
