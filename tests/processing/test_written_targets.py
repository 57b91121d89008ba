from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

from pixelllm_hf.processing import written_targets
from pixelllm_hf.processing.canvas_transform import CanvasTransform
from pixelllm_hf.processing.grounded_targets import PartialAnswerWarning
from pixelllm_hf.processing.prompt_sources import PromptSource
from pixelllm_hf.processing.target_phrases import target_phrases
from pixelllm_hf.processing.word_spans import SpanReader
from pixelllm_hf.processing.written_targets import WrittenTargets, read_without


def source(image: int, size_wh: tuple[int, int]) -> PromptSource:
    return PromptSource(image, 0, CanvasTransform.fit(size_wh, 64), None, None, None)


def targets(rows: list[int]) -> WrittenTargets:
    logits = torch.full((len(rows), 8, 8), -1.0)
    logits[:, :4] = 1
    return WrittenTargets(np.array(rows), np.zeros((len(rows), 2), int), logits, None, None)


def test_text_without_a_targets_tokens_has_single_blanks_and_spans_in_it(any_tokenizer):
    any_tokenizer.add_tokens(["[A]", "[B]"])
    group = any_tokenizer.convert_tokens_to_ids(["[A]", "[B]"])
    a, b = (any_tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("a red dog", "is here"))
    ids = [*a, *group, *b, *group, *any_tokenizer(".", add_special_tokens=False)["input_ids"]]
    spanned = read_without(SpanReader(any_tokenizer), ids, group)
    assert spanned.text.replace(" ", "") == "areddogishere." and "  " not in spanned.text and " ." not in spanned.text
    first, second = len(a), len(a) + 2 + len(b)
    assert spanned.token_spans[first] == spanned.token_spans[first + 1]
    assert spanned.text[: spanned.token_spans[first][0]] == "a red dog"
    assert spanned.text[spanned.token_spans[second][0] :] == "."
    assert [spanned.text[word.start : word.end] for word in spanned.words()][:3] == ["a", "red", "dog"]


def test_an_answer_of_targets_alone_has_no_text(any_tokenizer):
    any_tokenizer.add_tokens(["[A]", "[B]"])
    group = any_tokenizer.convert_tokens_to_ids(["[A]", "[B]"])
    spanned = read_without(SpanReader(any_tokenizer), group, group)
    assert spanned.text == "" and spanned.token_spans == [(0, 0), (0, 0)] and spanned.words() == []


def test_masks_come_at_the_size_of_the_image_of_their_row():
    masks = targets([0, 2, 2]).on_images([source(0, (40, 30)), source(1, (9, 9)), source(2, (20, 50))])
    assert [masks[i].shape for i in range(3)] == [(30, 40), (50, 20), (50, 20)]
    assert masks[0].any() and not masks[0].all()


def test_a_mask_that_lies_in_the_padding_alone_has_the_score_0(any_tokenizer):
    any_tokenizer.add_tokens(["[A]", "[B]"])
    group = any_tokenizer.convert_tokens_to_ids(["[A]", "[B]"])
    logits = torch.full((2, 8, 8), -9.0)
    logits[0, 6:], logits[1, :2] = 9, 9  # the image, twice as wide as high, fills the upper half
    written = WrittenTargets(np.array([0, 0]), np.array([[0, 1], [2, 3]]), logits, np.array([0.9, 0.8]), None)
    spanned = read_without(SpanReader(any_tokenizer), [*group, *group], group)
    padding, image = written.grounded(0, spanned, written.on_images([source(0, (40, 20))]))
    assert not padding.mask.any() and padding.mask_score == 0
    assert image.mask.any() and image.mask_score == 0.8


def test_masks_beyond_memory_are_none_and_other_images_keep_theirs(monkeypatch):
    monkeypatch.setattr(written_targets, "MAX_MASK_PIXELS", 2 * 100)
    with pytest.warns(PartialAnswerWarning, match="first 2 targets"):
        masks = targets([0, 0, 0, 1]).on_images([source(0, (10, 10)), source(1, (5, 5))])
    assert [mask is None for mask in masks.values()] == [False, False, True, False]


def test_an_answer_that_was_cut_within_a_target_says_so():
    cut = WrittenTargets(np.zeros(0, int), np.zeros((0, 2), int), torch.zeros(0, 8, 8), None, np.array([True, False]))
    with pytest.warns(PartialAnswerWarning, match="larger max_new_tokens"):
        cut.warn_of_incomplete(0, "a dog")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cut.warn_of_incomplete(1, "a dog")


def test_targets_of_unequal_numbers_are_refused():
    with pytest.raises(ValueError, match="there are 2, 1 and 2"):
        WrittenTargets.of(
            {
                "row_of_target": torch.zeros(2, dtype=torch.long),
                "target_positions": torch.zeros(1, 4, dtype=torch.long),
                "mask_logits": torch.zeros(2, 8, 8),
            }
        )
    assert WrittenTargets.of({"sequences": torch.zeros(1, 3)}) is None


def test_whatever_tokens_are_written_spans_lie_in_the_text_in_order(any_tokenizer):
    any_tokenizer.add_tokens(["[A]", "[B]"])
    group = any_tokenizer.convert_tokens_to_ids(["[A]", "[B]"])
    reader, noise = SpanReader(any_tokenizer), np.random.default_rng(0)
    for _ in range(60):
        ids = noise.integers(0, len(any_tokenizer), noise.integers(0, 12)).tolist()
        for place in sorted(noise.integers(0, len(ids) + 1, 3), reverse=True):
            ids[place:place] = group[: noise.integers(0, 3)]
        spanned = read_without(reader, ids, group)
        flat = [end for span in spanned.token_spans for end in span]
        assert (
            len(spanned.token_spans) == len(ids)
            and flat == sorted(flat)
            and all(0 <= i <= len(spanned.text) for i in flat)
        )
        assert "[A]" not in spanned.text and "[B]" not in spanned.text
        places = [start for (start, _), token in zip(spanned.token_spans, ids, strict=True) if token == group[0]]
        for (start, end), place in zip(target_phrases(spanned.text, places), places, strict=True):
            assert 0 <= start <= end <= place
