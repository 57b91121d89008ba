"""What of a text the tokenizer can write, and the text itself on its way around the model, which gives tokens only."""

from __future__ import annotations

import unicodedata
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


class UnwritableTextWarning(UserWarning):
    """The model does not read a part of a text, because its tokenizer has no tokens for it."""


@dataclass(frozen=True)
class WritableText:
    """A text as tokens.

    ids: without the unknown token; what it would stand for is left out. spans: the characters of `text` that each
    id wrote, or None if the tokenizer does not say. unwritable: what was left out, in order.
    """

    text: str
    ids: list[int]
    spans: list[tuple[int, int]] | None
    unwritable: tuple[str, ...] = ()

    def warn(self) -> None:
        """Say what the model will not read, if anybody could see it."""
        visible = [piece for piece in self.unwritable if not all(map(_is_invisible, piece))]
        if visible:
            warnings.warn(
                f"the tokenizer has no tokens for {', '.join(map(repr, visible))} in {self.text[:80]!r}, and the model "
                "does not read that. Say it in the words that the model was trained with.",
                UnwritableTextWarning,
                stacklevel=4,  # the call of the processor
            )


def writable_text(tokenizer: Any, text: str) -> WritableText:
    """The text without what the tokenizer has no tokens for: emoji, other scripts, the name of the token itself."""
    lost = {i for i, character in enumerate(text) if unicodedata.category(character) == "Cs"}  # a byte, half a letter
    unknown, kept = tokenizer.unk_token_id, [i for i in range(len(text)) if i not in lost]
    while True:
        given = "".join(text[i] for i in kept)
        encoded = tokenizer(given, add_special_tokens=False, return_offsets_mapping=tokenizer.is_fast)
        ids, offsets = list(encoded["input_ids"]), encoded.get("offset_mapping")
        if unknown is None or unknown not in ids:
            break
        if offsets is None:
            return WritableText(text, [i for i in ids if i != unknown], None, (text,))
        gone = {kept[i] for (start, end), token in zip(offsets, ids, strict=True) if token == unknown
                for i in range(start, end)}  # fmt: skip
        if not gone:  # it stands for nothing in particular
            return WritableText(text, [i for i in ids if i != unknown], None)
        lost |= gone
        kept = _without_double_blanks(text, [i for i in kept if i not in gone])
    spans = None
    if offsets is not None:
        pieces = tokenizer.convert_ids_to_tokens(ids)
        spans = [_span(text, kept, start, end, piece) for (start, end), piece in zip(offsets, pieces, strict=True)]
    return WritableText(text, ids, spans, _pieces(text, lost))


def _is_invisible(character: str) -> bool:
    """Blanks, control and format characters; what has no glyph of its own, as half a letter, is shown as something."""
    category = unicodedata.category(character)
    return category[0] == "Z" or category in ("Cc", "Cf")


def _without_double_blanks(text: str, kept: Sequence[int]) -> list[int]:
    """kept: positions in the text; blanks that now stand at an end or beside another blank go."""
    result: list[int] = []
    for i in kept:
        if not text[i].isspace() or (result and not text[result[-1]].isspace()):
            result.append(i)
    while result and text[result[-1]].isspace():
        result.pop()
    return result


def _span(text: str, kept: Sequence[int], start: int, end: int, piece: str) -> tuple[int, int]:
    while start < end and text[kept[start]].isspace():  # what was lost may stand between the blank and the word
        start += 1
    if start >= end or not piece.strip("\u2581 "):  # a blank that is a token of its own
        place = kept[start] if start < len(kept) else 0
        return place, place
    return kept[start], kept[end - 1] + 1


def _pieces(text: str, lost: set[int]) -> tuple[str, ...]:
    """Neighbouring lost characters together."""
    pieces: list[str] = []
    for i in sorted(lost):
        if i - 1 in lost and pieces:
            pieces[-1] += text[i]
        else:
            pieces.append(text[i])
    return tuple(pieces)


def as_characters(texts: Sequence[str]) -> np.ndarray:
    """Texts -> their code points (R,L) int64, -1 after the end: a tensor goes wherever the other inputs go."""
    rows = [[ord(character) for character in text] for text in texts]
    result = np.full((len(rows), max(1, *map(len, rows))), -1, dtype=np.int64)
    for row, points in zip(result, rows, strict=True):
        row[: len(points)] = points
    return result


def from_characters(row: Any) -> str:
    """The inverse of `as_characters` for one row."""
    return "".join(chr(point) for point in np.asarray(row).tolist() if point >= 0)


__all__ = ["UnwritableTextWarning", "WritableText", "as_characters", "from_characters", "writable_text"]
