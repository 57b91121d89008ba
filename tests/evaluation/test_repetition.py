from __future__ import annotations

import pytest

from pixelllm_hf.evaluation.repetition import repeats, repetition_metrics


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", False),
        ("a dog", False),
        ("a dog a dog a dog", True),
        ("the the the the", True),
        ("A red ball, a red ball, a red cat", True),
        ("A red ball and a red cat", False),
        ("on the left is a dog. On the left", True),
        ("one, two, three; one two. Three", True),
    ],
)
def test_three_words_in_a_row_said_twice_are_a_repetition(text, expected):
    assert repeats(text) is expected


def test_the_share_of_repeating_texts_and_their_length():
    metrics = repetition_metrics(["a dog a dog a dog", "a cat.", ""], resamples=0)
    assert metrics["repeating"].value == pytest.approx(1 / 3)
    assert metrics["words_per_text"].value == pytest.approx(8 / 3)
