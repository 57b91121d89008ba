from __future__ import annotations

import pytest
import torch
from transformers import CLIPVisionConfig

from pixelllm_hf.modeling.vision_clip import ClipVisionTower, patch_mask, resize_positions


def tower(*layers: int) -> ClipVisionTower:
    torch.manual_seed(0)
    config = CLIPVisionConfig(
        hidden_size=16, intermediate_size=24, num_hidden_layers=4, num_attention_heads=2, patch_size=8, image_size=32
    )
    return ClipVisionTower(config, layers).eval()


def test_the_maps_are_the_hidden_states_that_transformers_counts():
    pixels = torch.randn(2, 3, 32, 32)
    ours = tower(-2, 1)
    theirs = ours.vision_model(pixels, output_hidden_states=True).hidden_states
    for image_map, layer in zip(ours(pixels), (-2, 1), strict=True):
        torch.testing.assert_close(image_map, theirs[layer][:, 1:].unflatten(1, (4, 4)))


def test_what_is_in_the_padding_changes_no_patch_of_the_image():
    pixels, mask = torch.randn(1, 3, 32, 32), torch.zeros(1, 32, 32, dtype=torch.bool)
    mask[:, :16, :24] = True
    clip = tower(-1)
    plain = clip(pixels, mask)[0]
    other = clip(torch.where(mask[:, None], pixels, pixels + 5), mask)[0]
    torch.testing.assert_close(plain[:, :2, :3], other[:, :2, :3])
    assert not torch.allclose(plain[:, :2, :3], clip(pixels)[0][:, :2, :3])


def test_a_patch_counts_if_its_first_pixel_is_of_the_image():
    mask = torch.zeros(1, 32, 32, dtype=torch.bool)
    mask[:, :9, :32] = True
    assert patch_mask(mask, 4)[0].any(1).tolist() == [True, True, False, False]


def test_positions_of_the_same_grid_stay_as_they_are():
    table = torch.randn(17, 6)
    torch.testing.assert_close(resize_positions(table, 4, class_row="first"), table)
    torch.testing.assert_close(resize_positions(table, 4, class_row="last"), table)


def test_the_class_keeps_its_row_and_the_released_way_takes_the_last_for_it():
    table = torch.randn(10, 6)
    torch.testing.assert_close(resize_positions(table, 5, class_row="first")[0], table[0])
    torch.testing.assert_close(resize_positions(table, 5, class_row="last")[-1], table[-1])


def test_a_table_that_is_no_square_grid_is_refused():
    with pytest.raises(ValueError, match="12 rows"):
        resize_positions(torch.zeros(12, 4), 4, class_row="first")
