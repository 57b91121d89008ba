"""What a model has learnt from and where it ends, in the words of its card, for the page."""

from __future__ import annotations

import re
from html import escape
from pathlib import Path

LETTERS = 260  # of each of the two; whole sentences
_TAUGHT = re.compile(r"what (it|the model) was (taught|trained) (with|on)|training( data)?", re.I)
_LIMITS = re.compile(r"(honest )?limits|limitations|bias, risks,? and limitations", re.I)
_HEADING = re.compile(r"^#{2,4}\s+(.+?)\s*$", re.M)
_IMAGE, _LINK = re.compile(r"!\[[^\]]*\]\([^)]*\)"), re.compile(r"\[([^\]]*)\]\([^)]*\)")
_SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z\"“])")


def learnt_from(name: str, folder: Path) -> str:
    """Markdown of a sentence or two: what the model called `name` was taught with, and its limits.

    folder: its checkpoint. What the card says comes as plain text, so that nothing of it is fetched or run; a card that
    says nothing is said to.
    """
    try:
        card = (folder / "README.md").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        card = ""
    taught, limits = (_beginning(card, heading) for heading in (_TAUGHT, _LIMITS))
    who = f"What **{_plain(name)}** has learnt from"
    return f"{who}: {taught} {limits}".strip() if taught else f"{who}, its card does not say."


def _beginning(card: str, heading: re.Pattern[str]) -> str:
    """The first sentences of the first paragraph under the first heading of this kind; "" if there is none."""
    for found in _HEADING.finditer(card):
        if heading.fullmatch(found[1]):
            paragraph = card[found.end() :].lstrip("\n").partition("\n\n")[0]
            if paragraph.startswith("#"):
                return ""
            text = " ".join(_LINK.sub(r"\1", _IMAGE.sub("", paragraph)).replace("**", "").replace("`", "").split())
            first, *others = _SENTENCE.split(text)
            for sentence in others:
                if len(first) + len(sentence) >= LETTERS:
                    break
                first += f" {sentence}"
            return _plain(first)
    return ""


def _plain(text: str) -> str:
    """Text that Markdown and HTML leave as it is."""
    return re.sub(r"([\\`*_\[\]#|~$])", r"\\\1", escape(text, quote=False))


__all__ = ["learnt_from"]
