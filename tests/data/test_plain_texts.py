"""Captions without the marks that some writers set and others do not."""

from __future__ import annotations

import pytest

from pixelllm_hf.data.grounded_examples import grounded_prompt
from pixelllm_hf.data.plain_texts import plain_prompt, plain_text


@pytest.mark.parametrize(
    ("written", "plain"),
    [
        ("A dog runs .", "A dog runs"),
        ("A dog runs.", "A dog runs"),
        ("a dog , a cat and a cow", "a dog, a cat and a cow"),
        ("two men - one old - sit; they laugh !", "two men one old sit; they laugh"),
        ('a man\'s T-shirt says "hi"', 'a man\'s T-shirt says "hi"'),
        ("a  dog\n", "a dog"),
        (" . ", ""),
    ],
)
def test_marks_that_stand_alone_or_end_a_text_go(written: str, plain: str) -> None:
    assert plain_text(written) == plain


def test_a_plain_text_is_plain_already() -> None:
    for text in ("A dog, a cat .", "x - y . !", "one ... two ..."):
        assert plain_text(plain_text(text)) == plain_text(text)


def test_utterances_stay_those_of_the_target() -> None:
    place = {"box": [0.0, 0, 4, 4], "center": [2.0, 2.0]}
    said = [{"text": "A dog", **place}, {"text": "- runs .", **place}]
    prompt = plain_prompt(grounded_prompt("A dog - runs .", utterances=said))
    assert prompt["target"] == "A dog runs"
    assert [utterance["text"] for utterance in prompt["utterances"]] == ["A dog", "runs"]
    assert [utterance["box"] for utterance in prompt["utterances"]] == 2 * [[0.0, 0, 4, 4]]


def test_a_text_of_marks_alone_is_left_as_it_is() -> None:
    assert plain_prompt(grounded_prompt("?!"))["target"] == "?!"
