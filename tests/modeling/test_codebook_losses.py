from __future__ import annotations

import pytest
import torch

from pixelllm_hf.modeling.codebook_losses import (
    codebook_mask_losses,
    contested_pixels,
    mask_cross_entropy,
    target_refinement,
)


def test_only_targets_of_one_answer_compete():
    logits = torch.tensor([[[1.0, 1.0, -1.0]], [[1.0, -1.0, -1.0]], [[1.0, 1.0, 1.0]]])
    assert contested_pixels(logits, [3]).tolist() == [[[True, True, False]]] * 3
    assert contested_pixels(logits, [2, 1]).tolist() == [[[True, False, False]]] * 2 + [[[False, False, False]]]


def test_counts_that_do_not_add_up_are_refused():
    with pytest.raises(ValueError, match="adds up to 1"):
        contested_pixels(torch.zeros(2, 1, 1), [1, 0])


def test_alpha_weighs_contested_pixels_by_hand():
    logits, masks = torch.full((2, 1, 2), 2.0), torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]])
    logits[1, 0, 1] = -2.0
    right, wrong = torch.log1p(torch.exp(torch.tensor(-2.0))), torch.log1p(torch.exp(torch.tensor(2.0)))
    # the first pixel is claimed twice and counts three times
    expected = ((3 * right + wrong) / 2 + (3 * wrong + wrong) / 2) / 2
    loss = codebook_mask_losses([logits], [masks], [[2]], refinement_alpha=3.0)["cross_entropy"]
    torch.testing.assert_close(loss, expected)


def test_every_target_of_a_batch_counts_alike_and_an_image_without_one_counts_nothing():
    generator = torch.Generator().manual_seed(0)
    logits = [torch.randn(n, 5, 6, generator=generator) for n in (3, 0, 1)]
    masks = [(torch.rand(n, 5, 6, generator=generator) > 0.5).float() for n in (3, 0, 1)]
    parts = codebook_mask_losses(logits, masks, [[2, 1], [0], [1]], refinement_alpha=1.0)
    torch.testing.assert_close(parts["cross_entropy"], mask_cross_entropy(torch.cat(logits), torch.cat(masks)))


def test_nothing_to_find_is_a_loss_of_zero_with_a_gradient():
    empty = torch.zeros(0, 4, 4, requires_grad=True)
    parts = codebook_mask_losses([empty], [empty], [[0]], refinement_alpha=2.0)
    assert {name: value.item() for name, value in parts.items()} == {"cross_entropy": 0.0, "dice": 0.0}
    assert target_refinement(empty, empty, []).item() == 0.0


def test_masks_of_another_size_are_refused():
    with pytest.raises(ValueError, match=r"shape of the logits.*\(1, 4, 4\)"):
        codebook_mask_losses([torch.zeros(1, 4, 4)], [torch.zeros(1, 8, 8)], [[1]], refinement_alpha=1.0)
