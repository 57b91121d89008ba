"""What a text says of an image that was mirrored left to right."""

from __future__ import annotations

import re
from typing import Any

_OTHER_SIDE = {"left": "right", "right": "left", "lefthand": "righthand", "righthand": "lefthand"}
_OTHER_SIDE |= {"leftmost": "rightmost", "rightmost": "leftmost", "leftward": "rightward", "rightward": "leftward"}
_OTHER_SIDE |= {"leftwards": "rightwards", "rightwards": "leftwards"}
_SIDES = re.compile(rf"\b({'|'.join(sorted(_OTHER_SIDE, key=len, reverse=True))})\b", re.IGNORECASE)

# "left" and "right" are also what somebody did, how near something is and what is correct. They are sides after the
# first words, before the second ones, and between "from" or "to" and the end of what is said of them.
_BEFORE = re.compile(r"\b(the|his|her|its|their|my|your|far|upper|lower|top|bottom|front|back)[\s-]+$", re.IGNORECASE)
_AFTER = re.compile(
    r"^[\s-]+(sides?|hands?|arms?|foot|feet|legs?|eyes?|ears?|knees?|shoulders?|wrists?|elbows?|thumbs?|paws?|corners?|"
    r"edges?|half|end|turns?|lane|most)\b",
    re.IGNORECASE,
)
_DIRECTION = re.compile(r"\b(from|to)\s+$", re.IGNORECASE)
_ENDS = re.compile(r"^\s*(?:[.,;!?)]|$|and\b|to\b)", re.IGNORECASE)
_NO_SIDE = re.compile(
    r"^[\s-]+(to|for|over|behind|way|ways|times?|moments?|places?|things?|angles?|answers?|sizes?|direction|mind|now|"
    r"after|before|up|side\s+up)\b",
    re.IGNORECASE,
)
_NEAR = 24  # characters that the patterns look at, before and after
# Mirrored writing says something else, and so do clocks, cogs and screws.
_WRITING = re.compile(
    r"[\"“”\d]|\b(signs?|says?|saying|reads|reading|letters?|words?|written|writing|lettering|numbers?|numbered|logos?|"
    r"texts?|labell?ed|labels?|captioned|clock|clocks|(?:counter|anti)?-?clockwise)\b",
    re.IGNORECASE,
)


def mirrored_text(text: str) -> str | None:
    """The text that is true of the mirrored image: left and right are swapped. None where that is not certain.

    Sides of bodies are swapped too: who raises the left hand raises the right one in the mirror. Not certain are texts
    that quote writing or numbers in the image, and those in which "left" or "right" may be no side.

    >>> mirrored_text("A man on the left holds a ball in his Right hand.")
    'A man on the right holds a ball in his Left hand.'
    >>> mirrored_text("A dog stands right behind a man who has left.") is None
    True
    """
    if _WRITING.search(text):
        return None
    for match in _SIDES.finditer(text):
        start, end = match.span()
        if not _is_side(text[max(start - _NEAR, 0) : start], match.group(), text[end : end + _NEAR]):
            return None
    return _swapped(text)


def mirrored_prompt(prompt: dict[str, Any]) -> dict[str, Any] | None:
    """The prompt of a grounded row with its texts for the mirrored image; its boxes are left. None: not certain."""
    target, context = mirrored_text(prompt["target"]), mirrored_text(prompt["context"] or "")
    if target is None or context is None:
        return None
    # Words of the target, of which an utterance alone may not show that they are sides.
    utterances = [{**utterance, "text": _swapped(utterance["text"])} for utterance in prompt["utterances"]]
    targets = [{**one, "name": _swapped(one["name"] or "")} for one in prompt.get("targets") or []]
    texts = {"target": target, "context": context if prompt["context"] else None}
    return {**prompt, **texts, "utterances": utterances, "targets": targets}


def _is_side(before: str, word: str, after: str) -> bool:
    """before, after: what stands beside the word, as much of it as the patterns look at."""
    if word.lower() not in ("left", "right"):
        return True
    if _DIRECTION.search(before):
        return bool(_ENDS.match(after))
    return not _NO_SIDE.match(after) and bool(_BEFORE.search(before) or _AFTER.match(after))


def _swapped(text: str) -> str:
    return _SIDES.sub(lambda match: _like(match.group(), _OTHER_SIDE[match.group().lower()]), text)


def _like(model: str, word: str) -> str:
    """The word in the other's capitals."""
    if model.isupper():
        return word.upper()
    return word.capitalize() if model[0].isupper() else word
