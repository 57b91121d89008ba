from __future__ import annotations

import numpy as np
import pytest

from pixelllm_hf.data.trace_alignment import (
    align_by_rank,
    align_by_text,
    sample_trace,
    utterance_boxes,
    utterance_centers,
    valid_utterances,
    whole_pixels,
)

LINE = np.array([[0.0, 0.0], [1.0, 2.0]])  # from (0, 0) at t=0 to (1, 2) at t=1


def spans_of(text: str) -> list[tuple[int, int]]:
    """Character spans of the words of a text."""
    spans, start = [], 0
    for word in text.split():
        start = text.index(word, start)
        spans.append((start, start + len(word)))
        start += len(word)
    return spans


def test_the_mouse_goes_straight_between_its_points_and_beyond_them():
    sampled = sample_trace(np.array([0.0, 1.0]), LINE, np.array([[-0.5, 0.5], [1.0, 2.0]]), samples=3)
    np.testing.assert_allclose(sampled[0], [[-0.5, -1], [0, 0], [0.5, 1]])
    np.testing.assert_allclose(sampled[1], [[1, 2], [1.5, 3], [2, 4]])


def test_two_points_at_the_same_instant_give_no_infinite_place():
    points = np.array([[0.2, 0.2], [0.4, 0.4], [0.6, 0.6]])
    sampled = sample_trace(np.array([1.0, 1.0, 1.0]), points, np.array([[0.0, 2.0]]))
    assert np.isfinite(sampled).all()


def test_a_trace_of_one_point_is_refused():
    with pytest.raises(ValueError, match="at least 2 points"):
        sample_trace(np.array([1.0]), np.array([[0.5, 0.5]]), np.array([[0.0, 1.0]]))


def test_a_center_weights_the_inner_samples_more_than_the_ends():
    sampled = np.array([[[0.0, 0.0], [1.0, 1.0], [0.0, 0.0]]])
    np.testing.assert_allclose(utterance_centers(sampled, np.array([[0.0, 2.0]])), [[0.5, 0.5]])
    # A moment has no extent in time: the plain mean.
    np.testing.assert_allclose(utterance_centers(sampled, np.array([[1.0, 1.0]])), [[1 / 3, 1 / 3]])


def test_a_box_is_the_smallest_around_the_samples():
    sampled = np.array([[[0.3, 0.9], [0.1, 0.5], [0.2, 1.2]]])
    np.testing.assert_allclose(utterance_boxes(sampled), [[0.1, 0.5, 0.3, 1.2]])


def test_an_utterance_without_text_or_off_the_left_edge_does_not_count():
    centers = np.array([[0.5, 0.5], [0.5, 0.5], [-0.1, 0.5], [2.0, 2.0]])
    assert valid_utterances(["dog", "  ", "cat", "far"], centers).tolist() == [True, False, False, True]


def test_the_rank_alignment_is_proportional():
    # Token k of n lies at 1/u + k/n (1 - 1/u) of the way: 4 tokens over 4 utterances are at 0.44, 0.63, 0.81, 1.
    assert align_by_rank(np.ones(4, bool), np.ones(4, bool)).tolist() == [1, 1, 2, 3]
    assert align_by_rank(np.ones(4, bool), np.ones(2, bool)).tolist() == [0, 0, 1, 1]


def test_invalid_tokens_and_missing_utterances_have_no_place():
    assert align_by_rank(np.array([False, True, False]), np.array([True])).tolist() == [-1, 0, -1]
    assert align_by_rank(np.ones(2, bool), np.zeros(3, bool)).tolist() == [-1, -1]


def test_an_inserted_word_shifts_the_rank_alignment_but_not_the_text_alignment():
    caption, said = "a dog and a cat", ["well", "um", "a", "dog", "and", "a", "cat"]
    assert align_by_text(caption, spans_of(caption), said).tolist() == [2, 3, 4, 5, 6]
    assert align_by_rank(np.ones(5, bool), np.ones(7, bool)).tolist() != [2, 3, 4, 5, 6]


def test_case_punctuation_and_inflection_do_not_break_the_text_alignment():
    caption = "In this image, there are two Dogs."
    said = ["in", "this", "image", "their", "are", "two", "dog"]
    assert align_by_text(caption, spans_of(caption), said).tolist() == list(range(7))


def test_a_word_that_was_not_said_has_no_place():
    caption = "a purple dog"
    assert align_by_text(caption, spans_of(caption), ["a", "dog"]).tolist() == [0, -1, 1]


def test_repeated_words_are_matched_in_order():
    caption = "a red car left of a red cup"
    said = caption.split()
    assert align_by_text(caption, spans_of(caption), said).tolist() == list(range(len(said)))
    assert align_by_text(caption, spans_of(caption), ["a", "red", "cup"]).tolist()[-1] == 2


@pytest.mark.parametrize("blank_in_token", [True, False])
def test_subwords_and_punctuation_go_where_their_word_goes(blank_in_token):
    caption = "a giraffe, red"
    starts = (1, 10) if blank_in_token else (2, 11)  # tokenizers differ in whose the blank is
    offsets = [(0, 1), (starts[0], 6), (6, 9), (9, 10), (starts[1], 14), (0, 0)]
    assert align_by_text(caption, offsets, ["a", "giraffe", "red"]).tolist() == [0, 1, 1, 1, 2, -1]


def test_an_utterance_of_several_words_lends_its_place_to_each():
    caption = "traffic light here"
    assert align_by_text(caption, spans_of(caption), ["traffic light", "here"]).tolist() == [0, 0, 1]


def test_boxes_are_clipped_before_they_are_rounded():
    boxes = np.array([[-3.0, 1.4, 70.2, 20.6]])
    assert whole_pixels(boxes, (20, 64)).tolist() == [[0, 1, 64, 20]]
