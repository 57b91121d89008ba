"""The words of an answer that each target belongs to.

A target is written behind what it is: "a red car [target] and a dog [target]". Answers that list first and point later,
"the car and the dog are [target] and [target]", are those of the released templates. There is no parser here: a phrase
begins with an article that no preposition precedes, which is what captions and MUSE's answers are made of.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_DETERMINERS = frozenset(
    """a an the this that these those my your his her its our their some any each every both all another no
    one two three four five six seven eight nine ten several many few""".split()
)
_PREPOSITIONS = frozenset(
    """of on in at to by with from for near under over behind beside between against into onto inside above below
    around along across through within without beneath off upon than like""".split()
)
# What joins a phrase to its target or to the next phrase, and is part of neither.
_JOINING = frozenset("is are was were be and or as well respectively separately namely sure yes here there".split())
_CLAUSE_ENDS = re.compile(r"[,;:.!?](?=\s|$)")
_SENTENCE_ENDS = re.compile(r"[:.!?](?=\s|$)")
_WORD = re.compile(r"\w(?:\S*\w)?")
_PREAMBLE = re.compile(r"(?:the )?segmentation results? of\s+", re.IGNORECASE)  # of a released template
_BETWEEN = re.compile(r"(?:\s|,|;|&|\band\b|\bor\b)*", re.IGNORECASE)
_ITEMS = re.compile(r"\s*(?:,\s*and\b|,\s*or\b|,|;|\band\b|\bor\b)\s*", re.IGNORECASE)


def target_phrases(text: str, places: Sequence[int]) -> list[tuple[int, int]]:
    """(start, end) in `text` of the phrase of each target; places (K,) ascending: where in the text each is written.

    A target that no words belong to has an empty span at its place.

    >>> text = "a red car and the dog on the sofa."
    >>> [text[start:end] for start, end in target_phrases(text, [9, 33])]
    ['a red car', 'the dog on the sofa']
    """
    phrases: list[tuple[int, int]] = []
    first = before = 0
    while first < len(places):
        last = first  # of the targets that follow each other with no words between
        while last + 1 < len(places) and _BETWEEN.fullmatch(text, places[last], places[last + 1]):
            last += 1
        count = last - first + 1
        items = _listed(text, before, places[first], count) if count > 1 else []
        phrases += items or [_phrase(text, before, places[first])] * count
        before, first = places[last], last + 1
    return phrases


def _phrase(text: str, start: int, end: int) -> tuple[int, int]:
    """The phrase that text[start:end] ends with."""
    for mark in _CLAUSE_ENDS.finditer(text, start, end):
        if text[mark.end() : end].strip():
            start = mark.end()
    words = _words(text, start, end)
    while words and text[slice(*words[-1])].lower() in _JOINING:
        words.pop()
    while words and text[slice(*words[0])].lower() in _JOINING:
        words.pop(0)
    if not words:
        return end, end
    lower = [text[slice(*word)].lower() for word in words]
    begins = [i for i, word in enumerate(lower) if word in _DETERMINERS]
    own = [i for i in begins if i == 0 or lower[i - 1] not in _PREPOSITIONS] or begins
    return words[own[-1] if own else 0][0], words[-1][1]


def _listed(text: str, start: int, end: int, count: int) -> list[tuple[int, int]]:
    """The items of a list right before `count` targets; empty if there are not as many."""
    words = _words(text, start, end)
    while words and text[slice(*words[-1])].lower() in _JOINING:
        words.pop()
    if not words:
        return []
    end = words[-1][1]
    start = max([start, *(mark.end() for mark in _SENTENCE_ENDS.finditer(text, start, end))])
    cuts = [(start, start), *((mark.start(), mark.end()) for mark in _ITEMS.finditer(text, start, end)), (end, end)]
    spans = [_phrase(text, a, b) for (_, a), (b, _) in zip(cuts, cuts[1:], strict=False)]
    named = [span for span in spans if span[0] < span[1]]
    return named if len(named) == count else []


def _words(text: str, start: int, end: int) -> list[tuple[int, int]]:
    """Spans of the words, without punctuation around them."""
    preamble = _PREAMBLE.search(text, start, end)
    return [match.span() for match in _WORD.finditer(text, start if preamble is None else preamble.end(), end)]


__all__ = ["target_phrases"]
