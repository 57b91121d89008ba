"""Answers that go round in circles: how many there are, and how long answers get."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pixelllm_hf.evaluation.bootstrap import RESAMPLES, Estimate, ratio_of_sums
from pixelllm_hf.processing.word_spans import SpannedText


def repeats(text: str, words: int = 3) -> bool:
    """Whether the same `words` words in a row are said twice, letters' case and punctuation aside.

    >>> repeats("A dog on the left, a cat on the left."), repeats("A dog and a dog.")
    (True, False)
    """
    said = [text[word.start : word.end].lower() for word in SpannedText(text, []).words()]
    runs = [tuple(said[i : i + words]) for i in range(len(said) - words + 1)]
    return len(set(runs)) < len(runs)


def repetition_metrics(texts: Sequence[str], *, resamples: int = RESAMPLES) -> dict[str, Estimate]:
    """One text an image -> the share of texts that repeat three words in a row, and words a text."""
    ones = np.ones(len(texts))
    length = np.array([len(SpannedText(text, []).words()) for text in texts], np.float64)
    return {
        "repeating": ratio_of_sums(np.array([repeats(text) for text in texts], np.float64), ones, resamples=resamples),
        "words_per_text": ratio_of_sums(length, ones, resamples=resamples),
    }


__all__ = ["repeats", "repetition_metrics"]
