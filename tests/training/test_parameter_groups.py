"""Learning rates and decay by parameter, after official.md#recipes."""

from __future__ import annotations

import math

import pytest
from torch import nn

from pixelllm_hf.modeling.configuration_pixelllm import PixelLLMConfig
from pixelllm_hf.modeling.modeling_pixelllm import PixelLLMForGroundedGeneration
from pixelllm_hf.training.optimizers import learning_rate_factor
from pixelllm_hf.training.parameter_groups import freeze, layer_scales, parameter_groups


@pytest.fixture(scope="module")
def model() -> PixelLLMForGroundedGeneration:
    return PixelLLMForGroundedGeneration(PixelLLMConfig.for_tests())


@pytest.mark.parametrize(
    ("name", "power"),
    [
        ("vision_towers.eva02.blocks.0.attn.q_proj.weight", 24),
        ("vision_towers.eva02.blocks.11.mlp.w1.weight", 13),
        ("vision_towers.eva02.blocks.23.norm1.weight", 1),
        ("vision_towers.eva02.patch_embed.proj.weight", 25),
        ("vision_towers.eva02.pos_embed", 25),
        ("vision_towers.sam.pos_embed", 25),
        ("vision_towers.eva02.cls_token", 0),
        ("vision_towers.eva02.ln_post.weight", 0),
        ("vision_towers.sam.blocks.3.attn.qkv.weight", 0),
        ("language_model.lm_head.weight", 0),
        ("point_head.norm.bias", 0),
    ],
)
def test_layer_decay_gives_the_specified_scale(name: str, power: int) -> None:
    names = [f"vision_towers.eva02.blocks.{i}.norm1.weight" for i in range(24)] + [name]
    assert layer_scales(names, 0.8)[name] == pytest.approx(0.8**power, rel=1e-12)


def test_every_trainable_parameter_is_in_one_group(model: PixelLLMForGroundedGeneration) -> None:
    groups = parameter_groups(model, learning_rate=1.0, weight_decay=0.05, layer_decay=0.8)
    names = [name for group in groups for name in group["names"]]
    assert sorted(names) == sorted(name for name, p in model.named_parameters() if p.requires_grad)
    assert all(len(group["names"]) == len(group["params"]) for group in groups)


def test_only_one_dimensional_parameters_do_not_decay(model: PixelLLMForGroundedGeneration) -> None:
    for group in parameter_groups(model, learning_rate=1.0, weight_decay=0.05, layer_decay=0.8):
        assert {p.ndim > 1 for p in group["params"]} == {group["weight_decay"] == 0.05}


def test_multipliers_act_on_top_of_the_layers(model: PixelLLMForGroundedGeneration) -> None:
    groups = parameter_groups(
        model, learning_rate=2.0, layer_decay=0.5, lr_multipliers={"point_head": 10, "eva02.blocks.0": 3}
    )
    rates = {name: group["base_lr"] for group in groups for name in group["names"]}
    assert rates["point_head.norm.weight"] == 20.0
    assert rates["vision_towers.eva02.blocks.0.norm1.weight"] == 2.0 * 3 * 0.5**2  # two blocks: ids 0..3
    assert rates["vision_towers.eva02.blocks.1.norm1.weight"] == 2.0 * 0.5


def test_names_that_match_nothing_are_errors(model: PixelLLMForGroundedGeneration) -> None:
    with pytest.raises(ValueError, match="mask_adaptor"):
        parameter_groups(model, learning_rate=1.0, lr_multipliers={"mask_adaptor": 10})
    with pytest.raises(ValueError, match=r"no such part. Its parts are: vision_towers"):
        freeze(model, ["vision_tower"])


def test_freezing_all_but_some_blocks_does_not_shift_their_scales() -> None:
    model = PixelLLMForGroundedGeneration(PixelLLMConfig.for_tests())
    before = layer_scales([name for name, _ in model.named_parameters()], 0.5)
    freeze(model, ["vision_towers.eva02.blocks.1", "language_model"])
    groups = parameter_groups(model, learning_rate=1.0, layer_decay=0.5)
    for group in groups:
        for name in group["names"]:
            assert group["base_lr"] == before[name]
            assert not name.startswith("language_model")


def test_layer_decay_goes_over_the_blocks_of_the_tower_that_is_named() -> None:
    names = [f"vision_towers.{tower}.blocks.{i}.norm1.weight" for tower in ("sam", "eva02") for i in range(3)]
    scales = layer_scales(names, 0.5, "sam")
    assert [scales[name] for name in names] == [0.125, 0.25, 0.5, 1, 1, 1]
    model = PixelLLMForGroundedGeneration(PixelLLMConfig.for_tests())
    with pytest.raises(ValueError, match="no vision tower 'yolox' has blocks"):
        parameter_groups(model, learning_rate=1.0, layer_decay=0.5, layer_decay_tower="yolox")
    assert parameter_groups(model, learning_rate=1.0, layer_decay_tower="yolox")


def test_a_model_with_nothing_to_train_is_refused() -> None:
    with pytest.raises(ValueError, match="every part of the model is frozen"):
        parameter_groups(nn.Linear(2, 2).requires_grad_(False), learning_rate=1.0)


@pytest.mark.parametrize(
    ("step", "factor"),
    [(0, 0.0), (125, 0.25 * (1 + math.cos(math.pi * -125 / 9750))), (250, 1.0), (5125, 0.5)],
)
def test_the_schedule_has_the_values_of_the_formula(step: int, factor: float) -> None:
    assert learning_rate_factor(step, warmup_steps=250, total_steps=10_000) == pytest.approx(factor, abs=1e-7)


def test_the_schedule_ends_at_zero_and_stays_there() -> None:
    assert learning_rate_factor(10_000, warmup_steps=250, total_steps=10_000) == 0.0
    assert learning_rate_factor(10_500, warmup_steps=250, total_steps=10_000) == 0.0
    assert learning_rate_factor(0, warmup_steps=0, total_steps=10) == 1.0
