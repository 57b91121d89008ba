from __future__ import annotations

import pytest

from pixelllm_hf.evaluation.metric_inputs import MetricInputError
from pixelllm_hf.evaluation.ptb_tokenizer import tokenize, tokenize_samples


def texts_of(golden):
    values = golden("caption_metrics")
    pairs = [(item["text"], item["tokens"]) for item in values["tokenizer"]]
    for sample in values["samples"]:
        pairs.append((sample["hypothesis"], sample["tokens_hypothesis"]))
        pairs += zip(sample["references"], sample["tokens_references"], strict=True)
    return zip(*pairs, strict=True)


@pytest.mark.parametrize("tokenizer", ["ptb-py", "ptb-jar"])
def test_all_stored_strings_become_the_official_tokens(golden, tokenizer, request):
    if tokenizer == "ptb-jar":
        request.getfixturevalue("java")
    texts, expected = texts_of(golden)
    assert tokenize(texts, tokenizer=tokenizer)[0] == list(expected)


# not among the stored strings; expectations printed by the jar
@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("He'd say they'll go; I'm not, we've won't", "he 'd say they 'll go i 'm not we 've wo n't"),
        ("1960's cars, '60s bikes", "1960 's cars '60s bikes"),
        ("on the walls., the flag", "on the walls. the flag"),
        ("A&T, AT&T and R&B", "a&t at&t and r&b"),
        ("at 9 a.m. on Mt. Hood, 10 ft. high, in. wide", "at 9 a.m. on mt. hood 10 ft. high in wide"),
        ("fig. 5 and figs. here", "fig. 5 and figs here"),
        ("a 2.5-inch U.S.-made toy", "a 2.5-inch u.s.-made toy"),
        ("3 1/2 cups", "3\u00a01/2 cups"),
        ("don’t “quote” ‘me’", "do n't quote me"),
        ("100%! yes!! ¢5 ½", "100 % yes !! cents 5 1/2"),
        ("a cat ,3 dogs", "a cat ,3 dogs"),
        ("naïve café 北京", "naïve café 北京"),
        ("", ""),
        ("...", ""),
    ],
)
def test_rules_agree_with_the_jar(text, tokens):
    assert tokenize([text], tokenizer="ptb-py")[0] == [tokens]


def test_line_feeds_are_spaces_and_captions_keep_their_places():
    assert tokenize(["a\nb", "", "c"], tokenizer="ptb-py")[0] == ["a b", "", "c"]


def test_samples_come_back_in_their_shape():
    hypotheses, references, name = tokenize_samples(["A.", "B."], [["C.", "D."], ["E."]], tokenizer="ptb-py")
    assert (hypotheses, references) == (["a.", "b."], [["c.", "d."], ["e."]])
    assert name == "PTB tokens (Python rules)"


def test_an_unknown_tokenizer_is_refused():
    with pytest.raises(MetricInputError, match="ptb-jar"):
        tokenize(["a"], tokenizer="nltk")
