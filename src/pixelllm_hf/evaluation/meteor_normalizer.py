"""How METEOR 1.5 splits an English line into tokens (`-l en -norm`), before it compares anything."""

from __future__ import annotations

import re
from collections.abc import Mapping

_LETTERS = "A-Za-zŠŽšžŸÀ-ÖØ-öø-žЀ-ӿԀ-ԧꙀ-ꙮ꙾-ꚗᴀ-ᵿ"
_ALNUM = "0-9" + _LETTERS
_SEPARATED = re.compile(rf"([^{_ALNUM} \t\n\x0b\f\r.'`,\-‘’])")
_DOTS = re.compile(r"\.(\.+)")
_LAST_OF_DOTS = re.compile(r"DOTMULTI\.([^.])")
_COMMAS = [re.compile(p) for p in (r"([^0-9]),([^0-9])", r"([0-9]),([^0-9])", r"([^0-9]),([0-9])")]
_QUOTES, _DOUBLE_QUOTES = re.compile("[`‘’]"), re.compile("[“”]|''")
_HYPHEN = re.compile(rf"([{_ALNUM}.])-([{_ALNUM}])")
_APOSTROPHES = [
    (re.compile(rf"([^{_LETTERS}])'([^{_LETTERS}])"), r"\1 ' \2"),
    (re.compile(rf"([^{_LETTERS}0-9])'([{_LETTERS}])"), r"\1 ' \2"),
    (re.compile(rf"([{_LETTERS}])'([^{_LETTERS}])"), r"\1 ' \2"),
    (re.compile(rf"([{_LETTERS}])'([{_LETTERS}])"), r"\1 '\2"),
    (re.compile(r"([0-9])'(s)"), r"\1 '\2"),
]
_HAS_LETTER = re.compile(f"[{_LETTERS}]")
_SPACES = re.compile("[ \u2000-\u200a\u202f\u205f\u3000\u00a0]+")
_WHITESPACE = re.compile("[ \t\n\r\f]+")

ALWAYS, BEFORE_NUMBERS = 1, 2
# For use without the package's own list: titles and the like, whose dot ends no sentence.
ABBREVIATIONS = {
    **dict.fromkeys("Mr Mrs Ms Dr Prof Rev Gen Col Capt Lt Sgt Sen Gov St Jr Sr Mt vs e.g i.e".split(), ALWAYS),
    **dict.fromkeys("ABCDEFGHIJKLMNOPQRSTUVWXYZ", ALWAYS),
    **dict.fromkeys("No pp Art".split(), BEFORE_NUMBERS),
}


def normalize(line: str, abbreviations: Mapping[str, int] = ABBREVIATIONS) -> list[str]:
    """The tokens of a line, lower case.

    Substitutions run one after the other and do not rescan what they wrote, like the jar's. Line feeds are spaces.

    >>> normalize("The U.S. flag, a black-and-white photo.")
    ['the', 'us', 'flag', ',', 'a', 'black', 'and', 'white', 'photo', '.']
    """
    text = _SEPARATED.sub(r" \1 ", f" {line} ".replace("\n", " "))
    text = _DOTS.sub(r" DOTMULTI\1", text)
    while "DOTMULTI." in text:
        text = _LAST_OF_DOTS.sub(r"DOTDOTMULTI \1", text).replace("DOTMULTI.", "DOTDOTMULTI")
    for comma in _COMMAS:
        text = comma.sub(r"\1 , \2", text)
    text = _DOUBLE_QUOTES.sub(' " ', _QUOTES.sub("'", text))
    text = text.replace("–", "-").replace("--", "-")
    text = _HYPHEN.sub(r"\1 \2", text)
    for apostrophe, replacement in _APOSTROPHES:
        text = apostrophe.sub(replacement, text)
    text = " ".join(_with_final_dots_split(_words(text), abbreviations))
    while "DOTDOTMULTI" in text:
        text = text.replace("DOTDOTMULTI", "DOTMULTI.")
    return _words(_SPACES.sub(" ", text.replace("DOTMULTI", ".")).lower())


def _words(text: str) -> list[str]:
    return [word for word in _WHITESPACE.split(text) if word]


def _with_final_dots_split(words: list[str], abbreviations: Mapping[str, int]) -> list[str]:
    result = []
    for word, following in zip(words, [*words, ""][1:], strict=True):
        stem, kind = word[:-1], abbreviations.get(word[:-1])
        if len(word) < 2 or not word.endswith("."):
            result.append(word)
        elif "." in stem and _HAS_LETTER.search(stem):
            result.append(word.replace(".", ""))  # U.S. -> US
        elif kind == ALWAYS or "a" <= following[:1] <= "z":
            result.append(word)
        elif kind == BEFORE_NUMBERS and "0" <= following[:1] <= "9":
            result.append(word)
        else:
            result += [stem, "."]
    return result
