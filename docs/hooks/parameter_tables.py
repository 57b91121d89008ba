"""mkdocstrings: a table of parameters from docstrings that describe them in prose, `name: what it is.`"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from griffe import Class, Extension, Function, Object

# "name: ", or "name, other: ", where a sentence or a line begins
_DESCRIBED = re.compile(r"(?:(?<=\A)|(?<=[.;] )|(?<=\n))((?:`?\w+`?, )*`?\w+`?): ")
_SECTION = re.compile(r"^(Args|Attributes|Parameters):$", re.M)


class ParameterTables(Extension):
    """What prose says of parameters becomes an "Args:" section; a docstring that has one stays as it is."""

    def on_object(self, *, obj: Object, **kwargs: Any) -> None:
        if obj.docstring is None or _SECTION.search(obj.docstring.value):
            return
        if names := list(_parameters(obj)):
            obj.docstring.value = with_section(obj.docstring.value, names)


def with_section(text: str, names: list[str]) -> str:
    """The docstring with its descriptions of these parameters, wherever they are, as a section in their order.

    Parameters that it says nothing of are in it with their types and defaults, unless it says nothing of any.
    """
    described: dict[str, str] = {}
    paragraphs = []
    for paragraph in text.split("\n\n"):
        if not paragraph.startswith((" ", ">>>", "```")):  # not code, nor an indented part
            paragraph = _without(paragraph, set(names), described)
        if paragraph:
            paragraphs.append(paragraph)
    if not described:
        return text
    section = [f"    {name}: {described.get(name, '—')}" for name in names]
    # the examples and the other sections come after
    place = next(
        (i for i, p in enumerate(paragraphs) if i and re.match(r">>>|```|[A-Z]\w+:$", p, re.M)), len(paragraphs)
    )
    paragraphs.insert(place, "\n".join(["Args:", *section]))
    return "\n\n".join(paragraphs)


def _without(paragraph: str, names: set[str], described: dict[str, str]) -> str:
    """The paragraph without descriptions of parameters, which are added to `described`."""
    found = [m for m in _DESCRIBED.finditer(paragraph) if set(re.findall(r"\w+", m[1])) <= names - described.keys()]
    if not found:
        return paragraph
    ends = [*(match.start() for match in found[1:]), len(paragraph)]
    for match, end in zip(found, ends, strict=True):
        about = " ".join(paragraph[match.end() : end].split()).rstrip(";")
        described |= dict.fromkeys(re.findall(r"\w+", match[1]), about)
    return paragraph[: found[0].start()].rstrip()


def _parameters(obj: Object) -> Iterator[str]:
    if isinstance(obj, Function):
        yield from (p.name.lstrip("*") for p in obj.parameters if p.name not in ("self", "cls"))
    elif isinstance(obj, Class):
        constructor = obj.members.get("__init__")
        if isinstance(constructor, Function):
            yield from _parameters(constructor)
        yield from (
            name for name, member in obj.members.items() if member.is_attribute and member.annotation is not None
        )
