from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from pixelllm_hf.conversion.scenic import convert_module
from pixelllm_hf.conversion.scenic_hparams import eva02_config
from pixelllm_hf.modeling.configuration_towers import PixelLLMEva02TowerConfig
from pixelllm_hf.modeling.vision_eva02 import Eva02Attention, Eva02VisionTower, rotary_angles, rotate

GOLDEN = Path(__file__).parents[1] / "golden" / "pixelllm" / "eva02_vit.safetensors"


def small_config(**overrides) -> PixelLLMEva02TowerConfig:
    """Patches of 14 pixels, a position table for a 3 x 3 grid."""
    sizes = dict(
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        pretrain_image_size=42,
        drop_path_rate=0.0,
    )
    return PixelLLMEva02TowerConfig(**(sizes | overrides))


def random_tower(**overrides) -> Eva02VisionTower:
    """A tower without a zero or a one among its weights, in evaluation mode."""
    torch.manual_seed(0)
    tower = Eva02VisionTower(small_config(**overrides)).eval()
    for weight in tower.parameters():
        torch.nn.init.normal_(weight, std=0.2)
    return tower


def reference_rotation(x: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """The specification's x * cos + rot(x) * sin on x (..., 1 + h*w, D), the CLS token left alone."""
    half = x.shape[-1] // 2
    frequencies = torch.tensor([10000 ** (-2 * i / half) for i in range(half // 2)]).repeat_interleave(2)
    rows, columns = torch.meshgrid(torch.arange(size_hw[0]), torch.arange(size_hw[1]), indexing="ij")
    angles = torch.cat([rows.reshape(-1, 1) * frequencies, columns.reshape(-1, 1) * frequencies], dim=-1)
    patches = x[..., 1:, :]
    turned = torch.stack([-patches[..., 1::2], patches[..., ::2]], dim=-1).flatten(-2)
    return torch.cat([x[..., :1, :], patches * angles.cos() + turned * angles.sin()], dim=-2)


def reference_attention(attn: Eva02Attention, x: Tensor, size_hw: tuple[int, int]) -> Tensor:
    batch, tokens, width = x.shape
    query, key, value = (
        y.view(batch, tokens, attn.num_heads, -1).transpose(1, 2)
        for y in (attn.q_proj(x) + attn.q_bias, attn.k_proj(x), attn.v_proj(x) + attn.v_bias)
    )
    query, key = reference_rotation(query, size_hw), reference_rotation(key, size_hw)
    weights = (query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5).softmax(-1)
    return attn.proj((weights @ value).transpose(1, 2).reshape(batch, tokens, width))


def test_every_block_and_the_tokens_equal_the_reference():
    with safe_open(GOLDEN, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
        config = eva02_config(json.loads(file.metadata()["hparams"]))
    weights = {name.removeprefix("params/"): value for name, value in tensors.items() if name.startswith("params/")}
    tower = Eva02VisionTower(config).eval()
    tower.load_state_dict(convert_module("git_backbone", weights))
    outputs = []
    for block in tower.blocks:
        block.register_forward_hook(lambda module, args, output: outputs.append(output))
    tokens = tower.tokens(tensors["inputs/image"].permute(0, 3, 1, 2))
    assert len(outputs) == 3
    for i, output in enumerate(outputs):
        torch.testing.assert_close(output, tensors[f"outputs/block_{i}"], atol=2e-5, rtol=0)
    torch.testing.assert_close(tokens, tensors["outputs/features"], atol=2e-5, rtol=0)


@pytest.mark.parametrize("size_hw", [(3, 3), (2, 5)])
def test_fast_attention_equals_an_explicit_softmax(size_hw):
    attn = random_tower().blocks[0].attn
    x = torch.randn(2, 1 + size_hw[0] * size_hw[1], 24)
    angles = rotary_angles(size_hw, 12, 10000.0, x.device)
    expected = reference_attention(attn, x, size_hw)
    torch.testing.assert_close(attn(x, angles.cos(), angles.sin()), expected, atol=1e-5, rtol=1e-5)


def test_the_rotation_depends_on_differences_of_position_only():
    torch.manual_seed(0)
    query, key = torch.randn(2, 1, 12)
    angles = rotary_angles((6, 6), 12, 10000.0, query.device)
    turned = [rotate(x.expand(37, -1), angles.cos(), angles.sin())[1:].view(6, 6, 12) for x in (query, key)]
    first = (turned[0][1, 2] * turned[1][3, 0]).sum()
    moved = (turned[0][3, 5] * turned[1][5, 3]).sum()
    elsewhere = (turned[0][3, 5] * turned[1][5, 4]).sum()
    torch.testing.assert_close(first, moved)
    assert (first - elsewhere).abs() > 1e-3


def test_the_cls_token_does_not_turn():
    angles = rotary_angles((3, 4), 8, 10000.0, torch.device("cpu"))
    assert angles.shape == (13, 4)
    assert not angles[0].any()
    assert angles[-1].tolist() == pytest.approx([2.0, 0.02, 3.0, 0.03])


def test_the_map_is_the_tokens_without_cls_row_by_row():
    tower = random_tower()
    pixels = torch.randn(1, 3, 42, 56)
    features, tokens = tower(pixels)["patches"], tower.tokens(pixels)
    assert features.shape == (1, 3, 4, 24)
    torch.testing.assert_close(features[0, 2, 1], tokens[0, 1 + 2 * 4 + 1])


def test_pixels_beyond_the_last_whole_patch_do_not_matter():
    tower = random_tower()
    pixels = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(tower(pixels)["patches"], tower(pixels[..., :56, :56])["patches"])


def test_a_map_does_not_depend_on_its_neighbours_in_the_batch():
    tower = random_tower()
    pixels = torch.randn(3, 3, 64, 64)
    torch.testing.assert_close(tower(pixels)["patches"][1:2], tower(pixels[1:2])["patches"], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("side", "cells"), [(28, 2), (42, 3), (100, 7)])
def test_the_position_table_fits_any_canvas(side, cells):
    tower = random_tower()
    features = tower(torch.randn(1, 3, side, side))["patches"]
    assert features.shape == (1, cells, cells, 24)
    features.square().sum().backward()
    assert tower.pos_embed.grad.abs().sum(-1).all()


def test_gradient_checkpointing_changes_neither_output_nor_gradients():
    plain, checkpointed = random_tower(drop_path_rate=0.5).train(), random_tower(drop_path_rate=0.5).train()
    for block in checkpointed.blocks:
        block.gradient_checkpointing = True
        block._gradient_checkpointing_func = lambda *args: torch.utils.checkpoint.checkpoint(*args, use_reentrant=False)
    pixels = torch.randn(4, 3, 64, 64)
    outputs = []
    for tower in (plain, checkpointed):
        torch.manual_seed(3)  # drop-path must also be replayed alike
        outputs.append(tower(pixels)["patches"])
        outputs[-1].square().sum().backward()
    torch.testing.assert_close(*outputs)
    for a, b in zip(plain.parameters(), checkpointed.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)


def test_a_tower_built_without_memory_knows_its_positions_once_it_has_weights():
    expected = random_tower()
    with torch.device("meta"):
        tower = Eva02VisionTower(small_config()).eval()
    tower.load_state_dict(expected.state_dict(), assign=True)
    pixels = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(tower(pixels)["patches"], expected(pixels)["patches"], atol=0, rtol=0)


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float32])
def test_the_map_follows_the_dtype_of_the_weights(half):
    tower = random_tower().to(half)
    assert tower(torch.randn(1, 3, 64, 64))["patches"].dtype == half


def test_bfloat16_autocast_stays_close_to_float32():
    tower = random_tower().train()
    pixels = torch.randn(2, 3, 64, 64)
    with torch.autocast("cpu", torch.bfloat16):
        features = tower(pixels)["patches"]
    features.float().square().sum().backward()
    error = (features.float() - tower(pixels)["patches"]).abs().max()
    assert error < 0.1
    assert all(weight.grad.dtype == torch.float32 and weight.grad.isfinite().all() for weight in tower.parameters())


def test_a_head_that_cannot_hold_row_and_column_pairs_is_refused():
    with pytest.raises(ValueError, match="multiple of 4"):
        Eva02VisionTower(small_config(hidden_size=24, num_attention_heads=4))
