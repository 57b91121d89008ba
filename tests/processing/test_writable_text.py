from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from pixelllm_hf.processing.prompt_locations import PromptError
from pixelllm_hf.processing.word_spans import SpanReader
from pixelllm_hf.processing.writable_text import (
    UnwritableTextWarning,
    as_characters,
    from_characters,
    writable_text,
)

IMAGE = Image.new("RGB", (64, 48))


@pytest.mark.parametrize(
    ("text", "read", "lost"),
    [
        ("the dog", "the dog", ()),
        ("the \U0001f986 dog", "the dog", ("\U0001f986",)),
        ("the dog \U0001f986", "the dog", ("\U0001f986",)),
        ("\U0001f986\U0001f415 dog \u72d7", "dog", ("\U0001f986\U0001f415", "\u72d7")),
        ("\u9e2d\u5b50", "", ("\u9e2d\u5b50",)),
        ("d\u00f6g", "dg", ("\u00f6",)),
        ("a \udcff dog", "a dog", ("\udcff",)),
        ("the <unk> dog", "the dog", ("<unk>",)),
    ],
)
def test_what_has_no_tokens_is_left_out_and_named(tokenizer, text, read, lost):
    written = writable_text(tokenizer, text)
    assert written.text == text and written.unwritable == lost
    assert tokenizer.unk_token_id not in written.ids
    assert tokenizer.decode(written.ids).split() == read.split()


def test_a_tokenizer_of_bytes_writes_everything(byte_level_tokenizer):
    for text in ("the \U0001f986 dog", "\u9e2d\u5b50"):
        written = writable_text(byte_level_tokenizer, text)
        assert not written.unwritable and byte_level_tokenizer.decode(written.ids) == text


def test_tokens_know_which_characters_of_the_asked_text_they_wrote(tokenizer):
    text = "a \U0001f986 red\u00f6ball dog"
    written = writable_text(tokenizer, text)
    spanned = SpanReader(tokenizer).read_given([0, *written.ids, 1, 0], text)
    assert spanned.text == text
    words = {text[w.start : w.end]: w.tokens for w in spanned.words()}
    assert list(words) == ["a", "\U0001f986", "red\u00f6ball", "dog"]
    assert words["\U0001f986"] == ()
    placed = [place for tokens in words.values() for place in tokens]
    assert len(placed) == len(set(placed)), "a token belongs to one word"


@pytest.mark.parametrize("text", ["a dog", "a dog and  it", "Dog, a!", "\U0001f986", ""])
def test_texts_survive_as_characters(text):
    row = as_characters([text, "longer than all of the others"])[0]
    assert row.dtype == np.int64 and from_characters(row) == text


def test_invisible_characters_are_left_out_without_a_word(tokenizer):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        writable_text(tokenizer, "a\u200d dog").warn()


def refer(processor, expressions):
    """Results of an answer in which every token has a location and every row a box."""
    inputs = processor(IMAGE, expressions, task="refer")
    queries = inputs["query_ids"]
    sequences = torch.cat([queries.new_zeros(len(queries), 1), queries], dim=1)
    has_location = (sequences > 1)[..., None, None]
    coordinates = torch.full((*sequences.shape, 2, 2), 0.5).masked_fill(~has_location, torch.nan)
    boxes = torch.tensor([[0.25, 0.25, 0.75, 0.75]]).repeat(len(queries), 1)
    boxes[~has_location.flatten(1).any(1)] = torch.nan  # as `generate` does
    out = {"sequences": sequences, "coordinates": coordinates, "boxes": boxes, "box_scores": torch.ones(len(queries))}
    out |= {"masks": torch.ones(len(queries), 16, 16), "mask_scores": torch.ones(len(queries))}
    return processor.post_process_segment(out, inputs)[0]


def test_an_expression_comes_back_as_it_was_asked_and_nothing_unread_has_a_place(processor):
    asked = ["the \U0001f986 dog", "\u9e2d\u5b50", "!!!", "a  dog", " it "]
    with pytest.warns(UnwritableTextWarning) as said:
        partly, none, mark, blanks, outer = refer(processor, asked)
    assert ["'\U0001f986'" in str(w.message) or "'\u9e2d\u5b50'" in str(w.message) for w in said] == [True, True]
    assert [r.text for r in (partly, none, mark, blanks, outer)] == [*asked[:-1], "it"]
    assert partly.prompt == "where is the \U0001f986 dog" and none.prompt == "where is \u9e2d\u5b50"
    assert [(w.text, w.point is None) for w in partly.words] == [("the", False), ("\U0001f986", True), ("dog", False)]
    assert partly.box == (16, 12, 48, 36) and partly.mask.shape == (48, 64) and partly.box_score == 1
    for result in (none, mark):
        assert result.box is None and result.mask is None and result.box_score is None and result.mask_score is None
    assert [w.point for w in none.words] == [None] and mark.words == ()
    assert [(w.text, w.start) for w in blanks.words] == [("a", 0), ("dog", 3)]


def test_a_prompt_is_read_as_far_as_it_can_be_written(processor):
    with pytest.warns(UnwritableTextWarning, match="\U0001f986"):
        inputs = processor(IMAGE, "a dog \U0001f986")
    assert torch.equal(inputs["input_ids"], processor(IMAGE, "a dog")["input_ids"])
    assert processor.prompt_sources(inputs, 1)[0].prompt == "a dog \U0001f986"
    with pytest.raises(PromptError, match="cannot write anything of .*\u9e2d\u5b50"):
        processor(IMAGE, "\u9e2d\u5b50")


def test_half_a_letter_that_is_left_out_is_told_of(processor):
    with pytest.warns(UnwritableTextWarning, match=r"no tokens for '\\ud800'"):
        processor(IMAGE, "a \ud800 dog")


@pytest.mark.parametrize("text", ["x" * 10**7, "a " * 10**6, "\U0001f986 a " * 10**6])
def test_endless_texts_are_refused_or_cut_before_they_are_read(processor, text, monkeypatch):
    read = []
    monkeypatch.setattr(
        "pixelllm_hf.processing.processing_pixelllm.writable_text",
        lambda tokenizer, text: read.append(len(text)) or writable_text(tokenizer, text),
    )
    for task in ("caption", "refer"):
        with pytest.raises(PromptError, match="may have 128 tokens"):
            processor(IMAGE, text, task=task)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnwritableTextWarning)
        assert processor(IMAGE, text, truncation=True)["input_ids"].shape == (1, 128)
    assert max(read) <= 64 * 128


def test_texts_that_tokens_give_back_travel_as_tokens_alone(processor):
    inputs = processor(IMAGE, "a dog")
    assert set(inputs) == set(processor.model_input_names)
