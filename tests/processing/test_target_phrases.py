from __future__ import annotations

import pytest

from pixelllm_hf.processing.target_phrases import target_phrases


def phrases(marked: str) -> list[str]:
    """Those of the targets that # stands for; the text has no # and no blank before one."""
    text, places = "", []
    for number, piece in enumerate(marked.split("#")):
        text = text.rstrip() + piece if number else piece
        places.append(len(text.rstrip()))
    return [text[start:end] for start, end in target_phrases(text, places[:-1])]


@pytest.mark.parametrize(
    ("marked", "expected"),
    [
        (
            "the picture shows a small red car #, a blue star # and a dog #.",
            ["a small red car", "a blue star", "a dog"],
        ),
        (
            "You can eat the red apple # on the table and the fork next to it #.",
            ["the red apple", "the fork next to it"],
        ),
        ("The black and white cat # sleeps", ["The black and white cat"]),
        ("sit on the chair #", ["the chair"]),
        ("apples # and pears #", ["apples", "pears"]),
        ("Two of them fly. The bird # does, the plane # too.", ["The bird", "the plane"]),
    ],
)
def test_a_phrase_is_what_the_words_before_its_target_name(marked, expected):
    assert phrases(marked) == expected


@pytest.mark.parametrize(
    ("marked", "expected"),
    [
        ("It is #.", ["It"]),
        ("Sure, the segmentation result is #.", ["the segmentation result"]),
        ("the car is #, the segmentation result of the dog is #.", ["the car", "the dog"]),
        ("apple, banana and pear are #, # and #, separately.", ["apple", "banana", "pear"]),
        ("Sure, they are #, # and #.", ["they", "they", "they"]),
        ("a car and a dog are #, # and #", ["a dog", "a dog", "a dog"]),
    ],
)
def test_answers_of_the_released_templates_are_understood(marked, expected):
    assert phrases(marked) == expected


@pytest.mark.parametrize("marked", ["#", "#.", "Sure, #.", "# #", "#, # and #"])
def test_a_target_without_words_has_an_empty_phrase(marked):
    assert set(phrases(marked)) == {""}


def test_every_phrase_lies_before_its_target_and_in_the_text():
    text = "a b the c, d of the e. f and g are here: h"
    for places in ([5, 9, 20, 30, 41], [0, 0, 42, 42], [1, 2, 3]):
        spans = target_phrases(text, places)
        assert len(spans) == len(places)
        assert all(0 <= start <= end <= place for (start, end), place in zip(spans, places, strict=True))
