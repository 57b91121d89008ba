"""Photographs whose captions have boxes for their phrases, as Flickr30k Entities has them, and what is asked of them.

A phrase's box is the smallest one around all of its boxes, as in the data set's protocol of phrase grounding. The head
word of a phrase is its last word, in lower case and without punctuation.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any

import numpy as np

from pixelllm_hf.evaluation.images import EvaluationImage
from pixelllm_hf.processing.canvas_transform import BoxXYXY
from pixelllm_hf.processing.grounded_results import GroundedCaption, GroundedWord
from pixelllm_hf.processing.word_spans import SpannedText


@dataclass(frozen=True)
class PlacedPhrase:
    """Words first..last of a caption, counted between its blanks. box: xyxy in shares of the image's sides."""

    first: int
    last: int
    text: str
    box: BoxXYXY

    @property
    def head(self) -> str:
        """
        >>> PlacedPhrase(0, 2, "The brown dogs,", (0, 0, 1, 1)).head
        'dogs'
        """
        return head_word(self.text)

    def holds(self, point: tuple[float, float] | None) -> bool:
        """Whether a point, in shares of the sides too, lies in the box, its border included."""
        x0, y0, x1, y1 = self.box
        return point is not None and x0 <= point[0] <= x1 and y0 <= point[1] <= y1


@dataclass(frozen=True)
class PhrasedCaption:
    """A caption and those of its phrases that have boxes, in order; the words, counted alike, that have no location."""

    text: str
    phrases: tuple[PlacedPhrase, ...]
    nowhere: frozenset[int] = frozenset()


@dataclass(frozen=True, eq=False)
class PhrasedImage(EvaluationImage):
    """An image and its captions; heads: the head words of all phrases of the split, see `noun_words`."""

    captions: tuple[PhrasedCaption, ...]
    heads: frozenset[str]


# Head words of phrases that are no nouns.
_NO_NOUNS = frozenset(
    "it he she they him her them his its their one ones two three four five six seven eight nine ten some several many "
    "few all both each other others another who which what that this those these there something anything nothing "
    "himself herself itself themselves".split()
)


def head_word(text: str) -> str:
    """The last word of a phrase, in lower case and without the punctuation around it; "" where there is none."""
    words = SpannedText(text, []).words()
    return text[words[-1].start : words[-1].end].lower() if words else ""


def phrased_caption(prompt: Mapping[str, Any], size_wh: tuple[int, int]) -> PhrasedCaption:
    """A prompt of a grounded row whose utterances are phrases and what lies between them."""
    scale = np.array([*size_wh, *size_wh], np.float64)
    phrases, nowhere, first = [], set(), 0
    for utterance in prompt["utterances"]:
        number = len(utterance["text"].split())
        if any(utterance["box"]):
            box = tuple((np.array(utterance["box"], np.float64) / scale).tolist())
            phrases.append(PlacedPhrase(first, first + number - 1, utterance["text"], box))  # type: ignore[arg-type]
        if utterance.get("visual") is False:
            nowhere |= set(range(first, first + number))
        first += number
    return PhrasedCaption(prompt["target"], tuple(phrases), frozenset(nowhere))


def noun_words(captions: Sequence[PhrasedCaption]) -> frozenset[str]:
    """The head words of the phrases, pronouns and numbers aside: what counts as a noun, without a parser."""
    return frozenset(phrase.head for caption in captions for phrase in caption.phrases) - _NO_NOUNS - {""}


def words_between_blanks(text: str, answer: GroundedCaption) -> list[GroundedWord | None]:
    """For each word of a caption the answer's word that stands there; None for punctuation and what was not read.

    The answer may be in other letters than the caption and may lack words: its tokenizer could not write them, or the
    caption was too long for it.
    """
    spans = {(word.start, word.end): word for word in answer.words}
    if answer.text == text:
        return [spans.get(span) if span else None for span in _spans(text)]
    own = [text[span[0] : span[1]].lower() if span else "" for span in _spans(text)]
    theirs = [word.text.lower() for word in answer.words]
    found: list[GroundedWord | None] = [None] * len(own)
    for block in SequenceMatcher(None, own, theirs, autojunk=False).get_matching_blocks():
        for step in range(block.size):
            found[block.a + step] = answer.words[block.b + step]
    return found


def _spans(text: str) -> Iterator[tuple[int, int] | None]:
    """Of every word between blanks the characters without the punctuation around it; None if nothing is left."""
    spans = [(word.start, word.end) for word in SpannedText(text, []).words()]
    position = 0
    for word in text.split():
        start = text.index(word, position)
        position = start + len(word)
        yield next((span for span in spans if start <= span[0] < position), None)


def shares(place: Sequence[float] | None, size_wh: tuple[int, int]) -> tuple[float, ...] | None:
    """A point (x, y) or a box xyxy in pixels -> in shares of the image's sides."""
    if place is None:
        return None
    return tuple(value / size_wh[i % 2] for i, value in enumerate(place))
