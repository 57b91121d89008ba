"""Counts of n-grams of words that are separated by spaces."""

from __future__ import annotations

from collections import Counter

Ngram = tuple[str, ...]


def ngram_counts(text: str, longest: int = 4) -> Counter[Ngram]:
    """How often every n-gram of 1 to `longest` words occurs.

    >>> ngram_counts("a b a", 2)[("a",)], ngram_counts("a b a", 2)[("b", "a")]
    (2, 1)
    """
    words = text.split()
    return Counter(tuple(words[i : i + n]) for n in range(1, longest + 1) for i in range(len(words) - n + 1))
