"""Names of objects in captions."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

COUNT_WORDS = frozenset({"two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "several", "many"})
_ARTICLES = frozenset({"a", "an", "the", "one", "this", "that"})
_LOOK_BACK = 4  # words before a name in which a count may stand: three big red fish


@dataclass(frozen=True)
class Mention:
    """A name in a caption. `first`..`last` are the indices of its words; `plural`: it speaks of several."""

    name: str
    first: int
    last: int
    plural: bool


class ObjectNames:
    """Finds the names of a vocabulary, singular or plural, in lists of words.

    names: name -> plural. Longer names win: with "bus" and "bus stop" in the vocabulary, "a bus stop" is no bus.
    """

    def __init__(self, names: Mapping[str, str]):
        self.names = dict(names)
        self._forms: dict[tuple[str, ...], tuple[str, bool | None]] = {}
        for name, plural in self.names.items():
            singular_form, plural_form = _split(name), _split(plural)
            self._forms[plural_form] = (name, True)
            # a name that is its own plural (sheep): the words before it decide
            self._forms[singular_form] = (name, None if singular_form == plural_form else False)
        self._longest = max((len(form) for form in self._forms), default=0)

    def mentions(self, words: Sequence[str]) -> list[Mention]:
        """All names in reading order; words in lower case or not, without punctuation.

        >>> names = ObjectNames({"bus": "buses", "sheep": "sheep"})
        >>> [(m.name, m.plural) for m in names.mentions("a bus and three white sheep".split())]
        [('bus', False), ('sheep', True)]
        """
        lowered = [word.lower() for word in words]
        found, i = [], 0
        while i < len(lowered):
            for length in range(min(self._longest, len(lowered) - i), 0, -1):
                form = self._forms.get(tuple(lowered[i : i + length]))
                if form is not None:
                    name, plural = form
                    if plural is None:
                        plural = _counted(lowered[max(0, i - _LOOK_BACK) : i])
                    found.append(Mention(name, i, i + length - 1, plural))
                    i += length
                    break
            else:
                i += 1
        return found


def words_of(text: str) -> list[str]:
    """The words of a caption, without punctuation.

    >>> words_of("A cat, two T-shirts and the dog's bone.")
    ['A', 'cat', 'two', 'T-shirts', 'and', 'the', "dog's", 'bone']
    """
    return re.findall(r"\w+(?:['’-]\w+)*", text)


def _split(name: str) -> tuple[str, ...]:
    return tuple(name.lower().split())


def _counted(words_before: Iterable[str]) -> bool:
    """Whether a count, and no article after it, stands before a name."""
    counted = False
    for word in words_before:
        if word in COUNT_WORDS:
            counted = True
        elif word in _ARTICLES:
            counted = False
    return counted
