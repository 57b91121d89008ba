from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from pixelllm_hf.conversion.scenic import convert_module
from pixelllm_hf.conversion.scenic_hparams import sam_config
from pixelllm_hf.modeling.configuration_towers import PixelLLMSamTowerConfig
from pixelllm_hf.modeling.vision_sam import (
    DropPath,
    SamAttention,
    SamVisionTower,
    join_windows,
    resize_map,
    split_windows,
)

GOLDEN = Path(__file__).parents[1] / "golden" / "pixelllm" / "sam_vit.safetensors"


def small_config(**overrides) -> PixelLLMSamTowerConfig:
    """Three-cell windows, block 1 global, tables for an 8 x 8 grid."""
    sizes = dict(
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        window_size=3,
        global_attn_indexes=(1,),
        output_channels=16,
        pretrain_image_size=128,
        drop_path_rate=0.0,
    )
    return PixelLLMSamTowerConfig(**(sizes | overrides))


def random_tower(**overrides) -> SamVisionTower:
    """A tower without a zero or a one among its weights, in evaluation mode."""
    torch.manual_seed(0)
    tower = SamVisionTower(small_config(**overrides)).eval()
    for weight in tower.parameters():
        torch.nn.init.normal_(weight, std=0.2)
    return tower


def reference_attention(attn: SamAttention, x: Tensor) -> Tensor:
    """The formula of the specification, one query cell at a time."""
    batch, height, width, _ = x.shape
    heads, dim = attn.num_heads, attn.head_dim
    query, key, value = attn.qkv(x).reshape(batch, height, width, 3, heads, dim).unbind(3)
    table_h, table_w = (
        resize_map(table[:, None], (2 * size - 1, 1), mode="bilinear")[:, 0]
        for table, size in ((attn.rel_pos_h, height), (attn.rel_pos_w, width))
    )
    out = torch.zeros(batch, height, width, heads, dim)
    for y in range(height):
        for x_ in range(width):
            q = query[:, y, x_]  # (B, heads, dim)
            logits = torch.einsum("bnd,byxnd->bnyx", q * dim**-0.5, key)
            offsets_h = table_h[torch.arange(y, y - height, -1) + height - 1]
            offsets_w = table_w[torch.arange(x_, x_ - width, -1) + width - 1]
            logits = logits + (q @ offsets_h.T)[..., :, None] + (q @ offsets_w.T)[..., None, :]
            weights = logits.flatten(2).softmax(-1).view_as(logits)
            out[:, y, x_] = torch.einsum("bnyx,byxnd->bnd", weights, value)
    return attn.proj(out.flatten(3))


def test_every_block_and_the_neck_equal_the_reference():
    with safe_open(GOLDEN, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
        config = sam_config(json.loads(file.metadata()["hparams"]))
    weights = {name.removeprefix("params/"): value for name, value in tensors.items() if name.startswith("params/")}
    tower = SamVisionTower(config).eval()
    tower.load_state_dict(convert_module("sam_backbone", weights))
    outputs = []
    for block in tower.blocks:
        block.register_forward_hook(lambda module, args, output: outputs.append(output))
    features = tower(tensors["inputs/image"].permute(0, 3, 1, 2))["neck"]
    assert len(outputs) == 4
    for i, output in enumerate(outputs):
        torch.testing.assert_close(output, tensors[f"outputs/block_{i}"], atol=2e-5, rtol=0)
    torch.testing.assert_close(features, tensors["outputs/features"], atol=2e-5, rtol=0)


@pytest.mark.parametrize("size_hw", [(8, 8), (5, 5), (4, 7)])
def test_fast_attention_equals_an_explicit_softmax(size_hw):
    attn = random_tower().blocks[1].attn  # tables for 8 cells, resized for the other sizes
    x = torch.randn(2, *size_hw, 24)
    torch.testing.assert_close(attn(x), reference_attention(attn, x), atol=1e-5, rtol=1e-5)


def test_the_position_bias_gets_gradients_through_a_resized_table():
    attn = random_tower().blocks[1].attn
    attn(torch.randn(1, 5, 5, 24)).square().sum().backward()
    assert attn.rel_pos_h.grad.abs().sum() > 0
    assert attn.rel_pos_w.grad.abs().sum() > 0


@pytest.mark.parametrize("size_hw", [(6, 6), (8, 8), (4, 7), (2, 2)])
def test_joining_windows_undoes_splitting(size_hw):
    x = torch.randn(2, *size_hw, 4)
    windows = split_windows(x, 3)
    assert windows.shape[1:] == (3, 3, 4)
    torch.testing.assert_close(windows[0, : size_hw[0], : size_hw[1]], x[0, :3, :3], atol=0, rtol=0)
    torch.testing.assert_close(join_windows(windows, 3, size_hw), x, atol=0, rtol=0)


def test_window_padding_takes_part_in_attention():
    tower = random_tower()
    x = torch.randn(1, 4, 4, 24)
    block = tower.blocks[0]
    padded = torch.nn.functional.pad(block.norm1(x), (0, 0, 0, 2, 0, 2))
    corner = reference_attention(block.attn, padded[:, 3:, 3:])[:, :1, :1]  # one real cell among eight zero ones
    expected = x[:, 3:, 3:] + corner
    expected = expected + block.mlp(block.norm2(expected))
    torch.testing.assert_close(block(x)[:, 3:, 3:], expected, atol=1e-5, rtol=1e-5)


def test_a_windowed_block_sees_its_window_and_a_global_block_sees_everything():
    windowed, everywhere = random_tower().blocks
    x = torch.randn(1, 6, 6, 24)
    changed = x.clone()
    changed[:, 5, 5] = torch.randn(24)
    differs = (windowed(x) - windowed(changed)).abs().amax(-1)[0] > 1e-6
    assert differs[3:, 3:].all()
    assert not differs[:3].any() and not differs[:, :3].any()
    assert ((everywhere(x) - everywhere(changed)).abs().amax(-1) > 1e-6).all()


def test_a_map_does_not_depend_on_its_neighbours_in_the_batch():
    tower = random_tower()
    pixels = torch.randn(3, 3, 80, 80)
    torch.testing.assert_close(tower(pixels)["neck"][1:2], tower(pixels[1:2])["neck"], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("side", "cells"), [(64, 4), (128, 8), (200, 12)])
def test_tables_fit_any_canvas(side, cells):
    features = random_tower()(torch.randn(1, 3, side, side))["neck"]
    assert features.shape == (1, cells, cells, 16)
    assert features.isfinite().all()


def test_a_table_of_the_same_grid_is_used_as_it_is():
    table = torch.randn(1, 8, 8, 4)
    assert resize_map(table, (8, 8)) is table


def test_gradient_checkpointing_changes_neither_output_nor_gradients():
    plain, checkpointed = random_tower(drop_path_rate=0.5).train(), random_tower(drop_path_rate=0.5).train()
    for block in checkpointed.blocks:
        block.gradient_checkpointing = True
        block._gradient_checkpointing_func = lambda *args: torch.utils.checkpoint.checkpoint(*args, use_reentrant=False)
    pixels = torch.randn(4, 3, 80, 80)
    outputs = []
    for tower in (plain, checkpointed):
        torch.manual_seed(3)  # drop-path must also be replayed alike
        outputs.append(tower(pixels)["neck"])
        outputs[-1].square().sum().backward()
    torch.testing.assert_close(*outputs)
    for a, b in zip(plain.parameters(), checkpointed.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)


def test_drop_path_drops_whole_samples_and_keeps_the_mean():
    torch.manual_seed(0)
    out = DropPath(0.25).train()(torch.ones(4000, 2, 2))
    assert out.unique().tolist() == pytest.approx([0.0, 4 / 3])
    assert (out.amax((1, 2)) == out.amin((1, 2))).all()
    assert abs(out.mean() - 1) < 0.03
    assert not DropPath(1.0).train()(torch.ones(5, 2)).any()


def test_drop_path_rates_rise_linearly_from_zero_to_the_last_block():
    tower = random_tower(num_hidden_layers=5, drop_path_rate=0.5)
    assert [block.drop_path.rate for block in tower.blocks] == pytest.approx([0.0, 0.125, 0.25, 0.375, 0.5])
    assert random_tower(num_hidden_layers=1, drop_path_rate=0.5).blocks[0].drop_path.rate == 0.0


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float32])
def test_the_map_follows_the_dtype_of_the_weights(half):
    tower = random_tower().to(half)
    assert tower(torch.randn(1, 3, 80, 80))["neck"].dtype == half


def test_bfloat16_autocast_stays_close_to_float32():
    tower = random_tower().train()
    pixels = torch.randn(2, 3, 80, 80)
    with torch.autocast("cpu", torch.bfloat16):
        features = tower(pixels)["neck"]
    features.float().square().sum().backward()
    error = (features.float() - tower(pixels)["neck"]).abs().max()
    assert error < 0.1
    assert all(weight.grad.dtype == torch.float32 and weight.grad.isfinite().all() for weight in tower.parameters())


def test_heads_that_do_not_divide_the_width_are_refused():
    with pytest.raises(ValueError, match="24 and 5"):
        SamVisionTower(small_config(num_attention_heads=5))
