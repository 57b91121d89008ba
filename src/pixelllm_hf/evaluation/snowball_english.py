"""The Snowball stemmer for English ("Porter 2"), the one METEOR uses. Written from the published description.

https://snowballstem.org/algorithms/english/stemmer.html
"""

from __future__ import annotations

import re
from functools import lru_cache

_VOWELS = "aeiouy"
_DOUBLES = ("bb", "dd", "ff", "gg", "mm", "nn", "pp", "rr", "tt")
_LI_ENDINGS = "cdeghkmnrt"
_WHOLE_WORDS = {
    "skis": "ski", "skies": "sky", "dying": "die", "lying": "lie", "tying": "tie", "idly": "idl", "gently": "gentl",
    "ugly": "ugli", "early": "earli", "only": "onli", "singly": "singl",
    **{word: word for word in ("sky", "news", "howe", "atlas", "cosmos", "bias", "andes")},
}  # fmt: skip
_DONE_AFTER_PLURAL = frozenset("inning outing canning herring earring proceed exceed succeed".split())
# tables run from long to short suffixes: the longest one decides, even if its condition then fails
_STEP_2 = [
    ("ational", "ate"), ("fulness", "ful"), ("iveness", "ive"), ("ization", "ize"), ("ousness", "ous"),
    ("biliti", "ble"), ("lessli", "less"), ("tional", "tion"),
    ("alism", "al"), ("aliti", "al"), ("ation", "ate"), ("entli", "ent"), ("fulli", "ful"), ("iviti", "ive"),
    ("ousli", "ous"),
    ("abli", "able"), ("alli", "al"), ("anci", "ance"), ("ator", "ate"), ("enci", "ence"), ("izer", "ize"),
    ("bli", "ble"), ("ogi", "og"), ("li", ""),
]  # fmt: skip
_STEP_3 = [
    ("ational", "ate"), ("tional", "tion"), ("alize", "al"), ("ative", ""), ("icate", "ic"), ("iciti", "ic"),
    ("ical", "ic"), ("ness", ""), ("ful", ""),
]  # fmt: skip
_STEP_4 = (
    "ement", "able", "ance", "ence", "ible", "ment", "ant", "ate", "ent", "ion", "ism", "iti", "ive", "ize", "ous",
    "al", "er", "ic",
)  # fmt: skip


@lru_cache(maxsize=100_000)
def stem(word: str) -> str:
    """The stem of a word in lower case.

    >>> [stem(word) for word in ("running", "happily", "generously", "a")]
    ['run', 'happili', 'generous', 'a']
    """
    if word in _WHOLE_WORDS:
        return _WHOLE_WORDS[word]
    if len(word) < 3:
        return word
    word = word.removeprefix("'")
    word = re.sub(r"^y|(?<=[aeiouy])y", "Y", word)  # a Y is a consonant
    r1 = _first_region(word)
    r2 = _region_after(word, r1)
    word = _without_possessive(word)
    word = _step_1a(word)
    if word in _DONE_AFTER_PLURAL:
        return word
    word = _step_1b(word, r1)
    if len(word) > 2 and word[-1] in "yY" and word[-2] not in _VOWELS:
        word = word[:-1] + "i"
    word = _step_2(word, r1)
    word = _step_3(word, r1, r2)
    word = _step_4(word, r2)
    return _step_5(word, r1, r2).replace("Y", "y")


def _first_region(word: str) -> int:
    for prefix in ("gener", "commun", "arsen"):
        if word.startswith(prefix):
            return len(prefix)
    return _region_after(word, 0)


def _region_after(word: str, start: int) -> int:
    """Where the part behind the first consonant after a vowel begins."""
    match = re.compile(r"[aeiouy][^aeiouy]").search(word, start)
    return match.end() if match else len(word)


def _without_possessive(word: str) -> str:
    for suffix in ("'s'", "'s", "'"):
        if word.endswith(suffix):
            return word[: -len(suffix)]
    return word


def _step_1a(word: str) -> str:
    if word.endswith("sses"):
        return word[:-2]
    if word.endswith(("ied", "ies")):
        return word[:-2] if len(word) > 4 else word[:-1]
    if word.endswith("s") and not word.endswith(("us", "ss")) and _has_vowel(word[:-2]):
        return word[:-1]
    return word


def _step_1b(word: str, r1: int) -> str:
    for suffix in ("eedly", "ingly", "edly", "eed", "ing", "ed"):
        if not word.endswith(suffix):
            continue
        rest = word[: -len(suffix)]
        if suffix in ("eedly", "eed"):
            return rest + "ee" if len(rest) >= r1 else word
        if not _has_vowel(rest):
            return word
        if rest.endswith(("at", "bl", "iz")):
            return rest + "e"
        if rest.endswith(_DOUBLES):
            return rest[:-1]
        return rest + "e" if len(rest) <= r1 and _ends_in_short_syllable(rest) else rest
    return word


def _step_2(word: str, r1: int) -> str:
    for suffix, replacement in _STEP_2:
        if word.endswith(suffix):
            rest = word[: -len(suffix)]
            if len(rest) < r1:
                return word
            if suffix == "ogi" and not rest.endswith("l"):
                return word
            if suffix == "li" and not (rest and rest[-1] in _LI_ENDINGS):
                return word
            return rest + replacement
    return word


def _step_3(word: str, r1: int, r2: int) -> str:
    for suffix, replacement in _STEP_3:
        if word.endswith(suffix):
            rest = word[: -len(suffix)]
            allowed = len(rest) >= (r2 if suffix == "ative" else r1)
            return rest + replacement if allowed else word
    return word


def _step_4(word: str, r2: int) -> str:
    for suffix in _STEP_4:
        if word.endswith(suffix):
            rest = word[: -len(suffix)]
            allowed = len(rest) >= r2 and (suffix != "ion" or rest.endswith(("s", "t")))
            return rest if allowed else word
    return word


def _step_5(word: str, r1: int, r2: int) -> str:
    rest = word[:-1]
    if word.endswith("e") and (len(rest) >= r2 or (len(rest) >= r1 and not _ends_in_short_syllable(rest))):
        return rest
    if word.endswith("ll") and len(rest) >= r2:
        return rest
    return word


def _has_vowel(part: str) -> bool:
    return any(letter in _VOWELS for letter in part)


def _ends_in_short_syllable(word: str) -> bool:
    if len(word) == 2:
        return word[0] in _VOWELS and word[1] not in _VOWELS
    return len(word) > 2 and word[-3] not in _VOWELS and word[-2] in _VOWELS and word[-1] not in _VOWELS + "wxY"
