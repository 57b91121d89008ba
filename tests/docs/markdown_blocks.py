"""The fenced blocks of a Markdown file, and what the comments before them say about running them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

_FENCE = re.compile(r"^(?P<indent> *)(?P<ticks>`{3,})(?P<language>[^\s`]*)[^`]*$")
_COMMENT = re.compile(r"^\s*<!--\s*(?P<key>not run|needs|run|with)\b\s*:?\s*(?P<value>.*?)\s*-->\s*$")


@dataclass(frozen=True)
class Block:
    """A fenced block.

    line: of its first line of code, from 1. not_run: why it cannot be run, from `<!-- not run: … -->` before it.
    needs: a head of the model without which it cannot be run, from `<!-- needs: … -->`. run: `<!-- run -->`, scripts
    in it are run and not only their options checked. server: what must answer meanwhile, from `<!-- with: hub -->`.
    """

    page: str
    line: int
    language: str
    code: str
    not_run: str | None = None
    needs: str | None = None
    run: bool = False
    server: str | None = None

    @property
    def name(self) -> str:
        """Where it is, for people and for the names of tests."""
        return f"{self.page}:{self.line}"


def read_blocks(path: Path, page: str) -> list[Block]:
    """All fenced blocks of a file, in order."""
    blocks: list[Block] = []
    said: dict[str, str] = {}
    lines = iter(enumerate(path.read_text(encoding="utf-8").splitlines(), 1))
    for number, line in lines:
        if comment := _COMMENT.match(line):
            said[comment["key"]] = comment["value"]
        elif fence := _FENCE.match(line):
            end = re.compile(rf"^ *{fence['ticks']}`*\s*$")
            code = []
            for _, inside in lines:
                if end.match(inside):
                    break
                code.append(inside.removeprefix(fence["indent"]))
            else:
                raise ValueError(f"{page}:{number}: the block is not closed.")
            text = "\n".join(code) + "\n"
            blocks.append(
                Block(
                    page,
                    number + 1,
                    fence["language"],
                    text,
                    said.get("not run"),
                    said.get("needs"),
                    "run" in said,
                    said.get("with"),
                )  # fmt: skip
            )
            said = {}
        elif line.strip():
            said = {}  # a comment is about the block right after it
    return blocks
