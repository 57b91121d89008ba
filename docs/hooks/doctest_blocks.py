"""mkdocstrings: examples in docstrings as code, where plain Markdown would take `>>>` for quotations."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from griffe import Extension, Object


class DoctestBlocks(Extension):
    """Puts a fence around every example, as far as the next blank line."""

    def on_object(self, *, obj: Object, **kwargs: Any) -> None:
        if obj.docstring is not None and ">>>" in obj.docstring.value:
            obj.docstring.value = "\n".join(_fenced(obj.docstring.value.splitlines()))


def _fenced(lines: list[str]) -> Iterator[str]:
    inside = False
    for line in lines:
        if not inside and line.startswith(">>>"):
            yield "```pycon"
            inside = True
        elif inside and not line.strip():
            yield "```"
            inside = False
        yield line
    if inside:
        yield "```"
