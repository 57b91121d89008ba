from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pixelllm_hf.conversion.parity.golden import Golden
from pixelllm_hf.conversion.parity.token_selection import select_tokens
from pixelllm_hf.modeling.box_ops import boxes_of_words, last_words, points_to_boxes

GOLDEN = Path(__file__).parents[1] / "golden" / "pixelllm" / "point_predictor.safetensors"
WORDS = torch.tensor([0, 7, 8, 9, 1, 0, 0])  # BOS, three words, EOS, padding


@pytest.fixture
def golden() -> Golden:
    return Golden.read(GOLDEN)


@pytest.mark.parametrize(
    ("name", "ignore"),
    [
        ("begin_end_pad", "begin,end,pad"),
        ("end_minus1", "end-1"),
        ("not_end_minus1", "^end-1"),
        ("text", "text"),
    ],
)
def test_selected_tokens_equal_the_reference(golden, name, ignore):
    keep = select_tokens(golden.inputs["text_tokens"], ignore, bos=0, eos=1, pad=0)
    assert torch.equal(keep, golden.outputs[f"token_mask/{name}"].bool())


@pytest.mark.parametrize("name", ["begin_end_pad", "not_end_minus1"])
def test_boxes_from_points_equal_the_reference(golden, name):
    keep = golden.outputs[f"token_mask/{name}"].bool()
    boxes = points_to_boxes(golden.outputs["point_coords_abs"], keep)
    torch.testing.assert_close(boxes, golden.outputs[f"boxes/{name}"])


def test_begin_and_padding_are_told_apart_when_their_ids_differ():
    tokens = torch.tensor([101, 7, 102, 0])
    assert select_tokens(tokens, "begin", bos=101, eos=102, pad=0).tolist() == [False, True, True, True]
    assert select_tokens(tokens, "pad", bos=101, eos=102, pad=0).tolist() == [True, True, True, False]


def test_the_empty_rule_keeps_everything_and_its_negation_nothing():
    assert select_tokens(WORDS, "", bos=0, eos=1, pad=0).all()
    assert not select_tokens(WORDS, "^", bos=0, eos=1, pad=0).any()


def test_the_last_word_of_a_caption_without_an_end_is_nobody():
    assert not select_tokens(torch.tensor([0, 7, 8]), "^end-1", bos=0, eos=1, pad=0).any()


def test_an_unknown_rule_is_refused_by_name():
    with pytest.raises(ValueError, match="'begin,last' has 'last'"):
        select_tokens(WORDS, "begin,last", bos=0, eos=1, pad=0)


def test_a_box_holds_all_kept_points_and_nothing_more():
    points = torch.rand(4, 6, 2, 2, generator=torch.Generator().manual_seed(0))
    keep = torch.rand(4, 6, generator=torch.Generator().manual_seed(1)) > 0.4
    for row, kept, box in zip(points, keep, points_to_boxes(points, keep), strict=True):
        inside = row[kept].flatten(0, 1)
        assert torch.equal(box, torch.cat([inside.amin(0), inside.amax(0)]))


def test_tokens_without_a_place_do_not_spoil_the_box():
    points = torch.tensor([[[3.0, 4.0]], [[torch.nan, torch.nan]], [[1.0, 6.0]]])
    for keep in (torch.tensor([True, False, True]), torch.tensor([True, True, True])):
        assert points_to_boxes(points, keep).tolist() == [1.0, 4.0, 3.0, 6.0]


def test_a_row_that_keeps_nothing_gives_a_box_turned_inside_out():
    left, top, right, bottom = points_to_boxes(torch.rand(3, 2, 2), torch.zeros(3, dtype=torch.bool))
    assert left > right and top > bottom


def test_the_last_word_stands_before_the_end_and_is_never_bos():
    tokens = torch.tensor([[0, 7, 8, 1, 0], [0, 1, 0, 0, 0], [0, 7, 8, 9, 10], [0, 7, 1, 1, 0]])
    assert last_words(tokens, 1).nonzero().tolist() == [[0, 2], [3, 1]]
    assert last_words(tokens, [8, 1]).nonzero().tolist() == [[0, 1], [2, 1], [3, 1]]


def test_a_row_that_keeps_no_place_has_no_box():
    points = torch.tensor([[[[0.2, 0.3], [0.6, 0.5]]], [[[torch.nan] * 2] * 2], [[[0.1, 0.1], [0.2, 0.2]]]])
    keep = torch.tensor([[True], [True], [False]])
    boxes = boxes_of_words(points, keep)
    torch.testing.assert_close(boxes[0], torch.tensor([0.2, 0.3, 0.6, 0.5]))
    assert boxes[1:].isnan().all()
