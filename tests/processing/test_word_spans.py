from __future__ import annotations

import random

import pytest

from pixelllm_hf.processing.word_spans import SpannedText, SpanReader

SENTENCES = [
    "a dog chases a red ball",
    "a red ball, isn't it?",
    '"a dog." (red) 50% 3.5 well-known',
    "a",
    "...",
    "",
]


def words_of(spanned: SpannedText) -> list[str]:
    return [spanned.text[word.start : word.end] for word in spanned.words()]


@pytest.mark.parametrize("sentence", SENTENCES)
def test_words_are_what_stands_between_blanks_without_outer_punctuation(any_tokenizer, sentence):
    ids = any_tokenizer(sentence, add_special_tokens=False).input_ids
    spanned = SpanReader(any_tokenizer).read(ids)
    text = any_tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False).strip()
    assert spanned.text == text
    expected = [chunk.strip(".,?-\"()'") for chunk in text.split()]
    assert words_of(spanned) == [word for word in expected if word]


def test_token_spans_are_in_order_and_cover_the_text(any_tokenizer):
    spanned = SpanReader(any_tokenizer).read(any_tokenizer(SENTENCES[1], add_special_tokens=False).input_ids)
    ends = [0, *(end for _, end in spanned.token_spans)]
    assert [start for start, _ in spanned.token_spans] == ends[:-1]
    assert ends == sorted(ends) and ends[-1] == len(spanned.text)


def test_every_word_gets_exactly_the_tokens_that_wrote_it(tokenizer):
    ids = tokenizer("a dog chases a red ball.", add_special_tokens=False).input_ids
    spanned = SpanReader(tokenizer).read([0, *ids, 1, 0, 0])
    pieces = tokenizer.convert_ids_to_tokens([0, *ids, 1, 0, 0])
    for word in spanned.words():
        written = "".join(pieces[i] for i in word.tokens).replace("▁", "")
        assert written == spanned.text[word.start : word.end]
    assert all(spanned.token_spans[i][0] == spanned.token_spans[i][1] for i in (0, len(ids) + 1, len(ids) + 2))


def test_a_letter_of_several_tokens_belongs_to_one_word(byte_level_tokenizer):
    tokenizer = byte_level_tokenizer
    ids = tokenizer("ein Bär im Zoo", add_special_tokens=False).input_ids
    spanned = SpanReader(tokenizer).read(ids)
    assert words_of(spanned) == ["ein", "Bär", "im", "Zoo"]
    tokens = [word.tokens for word in spanned.words()]
    assert len(set().union(*tokens)) == sum(map(len, tokens)), "no token belongs to two words here"


def test_the_fast_path_equals_the_plain_path(tokenizer):
    reader = SpanReader(tokenizer)
    dice = random.Random(0)
    fast = 0
    for _ in range(200):
        ids = [dice.randrange(len(tokenizer)) for _ in range(dice.randrange(1, 12))]
        text = reader.read(ids).text
        quick, plain = reader._read_pieces(ids, text), reader._read_prefixes(ids, text)
        if quick is not None:
            fast += 1
            assert quick.words() == plain.words()
    assert fast > 150


def test_ids_beyond_the_vocabulary_write_nothing(tokenizer):
    ids = tokenizer("a dog", add_special_tokens=False).input_ids
    assert SpanReader(tokenizer).read([*ids, len(tokenizer) + 7]).text == "a dog"
