from __future__ import annotations

import pytest
import torch

from pixelllm_hf.modeling.codebook_targets import TargetProjection, find_token_groups
from pixelllm_hf.modeling.configuration_pixellm import PixelLMCodebookConfig


def test_groups_are_found_in_the_order_they_are_written():
    groups = find_token_groups(torch.tensor([[1, 7, 8, 9, 2, 7, 8, 9], [7, 8, 9, 0, 0, 0, 0, 0]]), [7, 8, 9])
    assert groups.row.tolist() == [0, 0, 1]
    assert groups.positions.tolist() == [[1, 2, 3], [5, 6, 7], [0, 1, 2]]
    assert groups.per_row().tolist() == [2, 1]
    assert not groups.incomplete.any()


@pytest.mark.parametrize("row", [[7, 8, 9, 7, 8], [7, 9, 8, 7, 8], [9, 7, 8, 9, 0]])
def test_a_broken_group_marks_its_answer_and_leaves_the_others(row):
    groups = find_token_groups(torch.tensor([row, [0, 7, 8, 9, 0]]), [7, 8, 9])
    assert groups.incomplete.tolist() == [True, False]
    assert 1 in groups.row.tolist()


def test_an_answer_shorter_than_a_group_has_none():
    groups = find_token_groups(torch.tensor([[7, 8]]), [7, 8, 9])
    assert len(groups.row) == 0 and groups.incomplete.tolist() == [True]


def test_equal_ids_are_refused():
    with pytest.raises(ValueError, match="must be different"):
        find_token_groups(torch.tensor([[7]]), [7, 7])


def test_an_embedding_is_the_weighted_sum_of_its_own_scales_tokens():
    config = PixelLMCodebookConfig(num_scales=2, tokens_per_scale=3, hidden_size=8)
    projection = TargetProjection(config, 12)
    states = torch.randn(4, 6, 12)
    with torch.no_grad():
        projection.token_scales.copy_(torch.tensor([1.0, 10.0, 100.0]))
    each = projection.text_hidden_fcs(states)
    torch.testing.assert_close(projection(states)[:, 1], each[:, 3] + 10 * each[:, 4] + 100 * each[:, 5])
