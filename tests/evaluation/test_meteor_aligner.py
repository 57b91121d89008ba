from __future__ import annotations

from pixelllm_hf.evaluation.meteor_aligner import EXACT, PARAPHRASE, STEM, SYNONYM, Match, align
from pixelllm_hf.evaluation.meteor_words import Synonyms

SYNONYMS = Synonyms({"couch": frozenset({1}), "sofa": frozenset({1}), "man": frozenset({2}), "guy": frozenset({2})}, {})


def modules(alignment):
    return [match.module for match in alignment.matches]


def test_equal_lines_match_in_one_chunk():
    alignment = align("a cat on a cat".split(), "a cat on a cat".split())
    assert modules(alignment) == [EXACT] * 5
    assert alignment.chunks == 1


def test_exchanged_halves_are_two_chunks():
    assert align("c d a b".split(), "a b c d".split()).chunks == 2


def test_a_lone_stem_match_counts_if_nothing_else_wants_its_words():
    assert modules(align("big cats".split(), "big cat".split())) == [EXACT, STEM]


def test_an_ambiguous_stem_match_alone_is_dropped():
    # two ways for one word: each is worth 0.6, cut to 0, so skipping it ties and saves a chunk
    assert modules(align("cats cats".split(), ["cat"])) == []


def test_synonyms_and_their_plurals_match():
    assert modules(align(["couch"], ["sofa"], synonyms=SYNONYMS)) == [SYNONYM]
    assert modules(align(["sofas"], ["couch"], synonyms=SYNONYMS)) == [SYNONYM]
    assert modules(align(["guy"], ["men"], synonyms=SYNONYMS)) == [SYNONYM]
    assert modules(align(["guy"], ["couch"], synonyms=SYNONYMS)) == []


def test_paraphrases_match_from_either_side_and_over_several_words():
    table = {("next", "to"): [("beside",)]}
    assert align(["beside"], ["next", "to"], paraphrases=table).matches == (Match(PARAPHRASE, 0, 2, 0, 1),)
    assert align(["next", "to"], ["beside"], paraphrases=table).matches == (Match(PARAPHRASE, 0, 1, 0, 2),)


def test_a_pair_listed_both_ways_is_ambiguous_and_dropped():
    table = {("lot",): [("many",)], ("many",): [("lot",)]}
    assert modules(align(["lot"], ["many"], paraphrases=table)) == []


def test_the_shift_of_a_match_is_charged_to_what_is_tried_after_it():
    # the second "the" stands in the same place as the reference's, yet the jar takes the first
    alignment = align("the x the".split(), "q y the".split())
    assert [match.other_start for match in alignment.matches] == [0]


def test_nothing_in_common_is_no_chunk():
    assert align(["a"], ["b"]).chunks == 0
    assert align([], ["b"]).chunks == 0
    assert align(["a"], []).chunks == 0
