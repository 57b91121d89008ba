"""What METEOR knows about English words: function words, abbreviations, synonyms and paraphrases.

The full data are read from an installed pycocoevalcap (METEOR's jar and its paraphrase table); nothing of them is
kept here. Without the package there is a short list of function words of our own and nothing else.
"""

from __future__ import annotations

import gzip
import importlib.util
import io
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import cast

from pixelllm_hf.evaluation.meteor_normalizer import ABBREVIATIONS, ALWAYS, BEFORE_NUMBERS

JAR, PARAPHRASES = "meteor-1.5.jar", "data/paraphrase-en.gz"
Phrase = tuple[str, ...]

# frequent words that say little, and punctuation; they weigh a third of a content word
FUNCTION_WORDS = frozenset(
    "a an the this that some all of to in on at by with for from as into over up out about after "
    "and or but if than so is was are were be been has have had not it its 's 't he his she her they their we you i "
    "who which when there what can could will would also more other no one two "
    ". , : ? ( ) $ - -- \" ' -lrb- -rrb-".split()
)
# suffix and what stands there in the base form, in WordNet's order
_BASE_FORMS = (
    ("s", ""), ("ses", "s"), ("xes", "x"), ("zes", "z"), ("ches", "ch"), ("shes", "sh"), ("men", "man"), ("ies", "y"),
    ("es", "e"), ("es", ""), ("ed", "e"), ("ed", ""), ("ing", "e"), ("ing", ""), ("er", ""), ("est", ""), ("er", "e"),
    ("est", "e"),
)  # fmt: skip


@dataclass(frozen=True)
class Synonyms:
    """`sets` of every word, and the `bases` of irregular forms."""

    sets: Mapping[str, frozenset[int]]
    bases: Mapping[str, tuple[str, ...]]

    def of(self, word: str) -> frozenset[int]:
        """The synonym sets of a word and of its base forms; two words are synonyms if they share one."""
        bases = self.bases.get(word)
        if bases is None:
            bases = (self._regular_base(word),)
        return self.sets.get(word, frozenset()).union(*(self.sets.get(base, ()) for base in bases))

    def _regular_base(self, word: str) -> str:
        if len(word) > 2 and not word.endswith("ss"):
            for suffix, replacement in _BASE_FORMS:
                if word.endswith(suffix) and word[: -len(suffix)] + replacement in self.sets:
                    return word[: -len(suffix)] + replacement
        return ""


@dataclass
class WordData:
    """The words METEOR is given; without `synonyms` and `paraphrase_file` it only compares words and stems."""

    function_words: frozenset[str] = FUNCTION_WORDS
    abbreviations: Mapping[str, int] = field(default_factory=lambda: ABBREVIATIONS)
    synonyms: Synonyms | None = None
    paraphrase_file: Path | None = None

    def paraphrases_of(self, words: Iterable[str]) -> dict[Phrase, list[Phrase]]:
        """phrase -> its paraphrases, in the table's order, as far as both are made of `words` only."""
        if self.paraphrase_file is None:
            return {}
        known = {word.encode() for word in words}
        found: dict[Phrase, list[Phrase]] = {}
        with gzip.open(self.paraphrase_file, "rb") as file:
            lines = io.BufferedReader(cast(io.RawIOBase, file), 1 << 20)
            # five million records of three lines: probability, phrase, paraphrase
            for _, phrase_line, paraphrase_line in zip(lines, lines, lines, strict=False):
                phrase = phrase_line.split()
                if known.issuperset(phrase) and known.issuperset(paraphrase := paraphrase_line.split()):
                    found.setdefault(_decoded(phrase), []).append(_decoded(paraphrase))
        return found


def _decoded(words: list[bytes]) -> Phrase:
    return tuple(word.decode() for word in words)


def installed_folder() -> Path | None:
    """Where pycocoevalcap keeps METEOR's jar and paraphrases, or None without the package."""
    try:
        spec = importlib.util.find_spec("pycocoevalcap.meteor")
    except (ImportError, ValueError):
        return None
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        if (Path(folder) / JAR).is_file() and (Path(folder) / PARAPHRASES).is_file():
            return Path(folder)
    return None


@lru_cache(maxsize=2)
def installed_words(folder: Path) -> WordData:
    """The full data, read from METEOR's own files; takes a second."""
    with zipfile.ZipFile(folder / JAR) as jar:
        function_words = frozenset(_lines(jar, "function/english.words"))
        abbreviations = {}
        for line in _lines(jar, "nonbreaking/english.prefixes"):
            words = line.split()
            if words and not words[0].startswith("#"):
                abbreviations[words[0]] = BEFORE_NUMBERS if "#NUMERIC_ONLY#" in words[1:2] else ALWAYS
        bases: dict[str, tuple[str, ...]] = {}
        for base, inflected in _pairs(_lines(jar, "synonym/english.exceptions")):
            for word in inflected.split():
                bases[word] = (*bases.get(word, ()), base)
        sets = {word: frozenset(map(int, ids.split())) for word, ids in _pairs(_lines(jar, "synonym/english.synsets"))}
    return WordData(function_words, abbreviations, Synonyms(sets, bases), folder / PARAPHRASES)


def _lines(jar: zipfile.ZipFile, name: str) -> list[str]:
    return jar.read(name).decode("utf-8").splitlines()


def _pairs(lines: list[str]) -> Iterable[tuple[str, str]]:
    return zip(lines[::2], lines[1::2], strict=True)
