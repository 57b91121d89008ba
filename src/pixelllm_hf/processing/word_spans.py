"""Which characters of the text each token wrote, and which tokens each word is made of."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .writable_text import writable_text

_SENTENCEPIECE_BLANK = "\u2581"
_WORD_MARKS = frozenset("%#@&")  # punctuation to Unicode, part of the word to readers


@dataclass(frozen=True)
class WordSpan:
    """text[start:end] is the word; tokens are the places in the sequence of those that wrote any of it."""

    start: int
    end: int
    tokens: tuple[int, ...]


@dataclass(frozen=True)
class SpannedText:
    """token_spans[i] are the characters of `text` that token i wrote; special tokens wrote none."""

    text: str
    token_spans: list[tuple[int, int]]

    def words(self) -> list[WordSpan]:
        """The words in reading order: what stands between blanks, without the punctuation around it."""
        words = []
        first = 0  # tokens before it end before the word at hand
        for match in re.finditer(r"\S+", self.text):
            start, end = _without_punctuation(self.text, *match.span())
            if start == end:
                continue
            while first < len(self.token_spans) and self.token_spans[first][1] <= start:
                first += 1
            tokens = []
            for i in range(first, len(self.token_spans)):
                token_start, token_end = self.token_spans[i]
                if token_start >= end:
                    break
                if token_start < token_end and token_end > start:
                    tokens.append(i)
            words.append(WordSpan(start, end, tuple(tokens)))
        return words


class SpanReader:
    """Reads token ids with their character offsets, for any tokenizer of transformers."""

    def __init__(self, tokenizer: Any):
        self.tokenizer = tokenizer
        self.special_ids = frozenset(tokenizer.all_special_ids)

    def read(self, ids: Sequence[int]) -> SpannedText:
        """The text of the ids, special tokens and outer blanks left out, and the span of every id."""
        ids = [int(i) for i in ids]
        text = self._decode(ids)
        return self._read_pieces(ids, text) or self._read_prefixes(ids, text)

    def read_given(self, ids: Sequence[int], text: str) -> SpannedText:
        """The same for ids that were made from `text`, which is kept as it is: the tokenizer may not give it back."""
        spanned = self.read(ids)
        if spanned.text == text:
            return spanned
        written = writable_text(self.tokenizer, text)
        places = [i for i, token in enumerate(ids) if int(token) not in self.special_ids]
        if written.spans is None or [int(ids[i]) for i in places] != written.ids:
            return spanned
        token_spans = [(0, 0)] * len(ids)
        for i, span in zip(places, written.spans, strict=True):
            token_spans[i] = span
        return SpannedText(text, token_spans)

    def _decode(self, ids: list[int]) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False).strip()

    def _read_pieces(self, ids: list[int], text: str) -> SpannedText | None:
        """The fast path: SentencePiece pieces written one after the other. None if that is not the text."""
        pieces = []
        for i, piece in zip(ids, self.tokenizer.convert_ids_to_tokens(ids), strict=True):
            written = "" if piece is None or i in self.special_ids else piece
            pieces.append(written.replace(_SENTENCEPIECE_BLANK, " "))
        raw = "".join(pieces)
        if raw.strip() != text:
            return None
        ends, length = [], len(raw) - len(raw.lstrip())
        position = -length
        for piece in pieces:
            position += len(piece)
            ends.append(min(max(position, 0), len(text)))
        return SpannedText(text, _spans(ends))

    def _read_prefixes(self, ids: list[int], text: str) -> SpannedText:
        """The plain path: a token wrote what the text gained when it came. Quadratic, but right for all."""
        ends: list[int] = []
        for i in range(len(ids)):
            prefix = self._decode(ids[: i + 1])
            # A half-written character changes when it is complete, so only what stays counts.
            common = len(os.path.commonprefix([prefix, text]))
            ends.append(max(common, ends[-1] if ends else 0))
        return SpannedText(text, _spans(ends))


def _spans(ends: list[int]) -> list[tuple[int, int]]:
    return list(zip([0, *ends][:-1], ends, strict=True))


def _without_punctuation(text: str, start: int, end: int) -> tuple[int, int]:
    while start < end and _is_punctuation(text[start]):
        start += 1
    while end > start and _is_punctuation(text[end - 1]):
        end -= 1
    return start, end


def _is_punctuation(character: str) -> bool:
    return character not in _WORD_MARKS and unicodedata.category(character).startswith("P")


__all__ = ["SpanReader", "SpannedText", "WordSpan"]
