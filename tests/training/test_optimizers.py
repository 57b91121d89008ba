"""Which optimizer moves which weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from pixelllm_hf.modeling.configuration_pixelllm import PixelLLMConfig
from pixelllm_hf.modeling.modeling_pixelllm import PixelLLMForGroundedGeneration
from pixelllm_hf.training.config import ConfigError, OptimizerConfig
from pixelllm_hf.training.optimizers import build_optimizers, linear_weights
from pixelllm_hf.training.parameter_groups import parameter_groups


def optimizers_of(model: nn.Module, **settings: Any) -> dict[str, dict[str, Any]]:
    """Kind of optimizer -> name of a parameter -> its learning rate."""
    config = OptimizerConfig(learning_rate=0.1, **settings)
    groups = parameter_groups(
        model, learning_rate=0.1, weight_decay=config.weight_decay, lr_multipliers=config.lr_multipliers
    )
    return {
        type(optimizer).__name__: {name: group["lr"] for group in optimizer.param_groups for name in group["names"]}
        for optimizer in build_optimizers(model, groups, config)
    }


def test_muon_has_the_matrices_of_hidden_layers_and_adamw_all_the_rest() -> None:
    model = PixelLLMForGroundedGeneration(PixelLLMConfig.for_tests())
    moved = optimizers_of(model, muon=True)
    names = {name for name, _ in model.named_parameters()}
    assert moved["Muon"].keys() | moved["AdamW"].keys() == names
    assert not moved["Muon"].keys() & moved["AdamW"].keys()
    parameters = dict(model.named_parameters())
    assert all(parameters[name].ndim == 2 for name in moved["Muon"])
    assert "language_model.body.encoder.block.0.layer.0.SelfAttention.q.weight" in moved["Muon"]
    for name in ("language_model.lm_head.weight", "language_model.body.shared.weight", "point_head.norm.weight"):
        assert name in moved["AdamW"]


def test_without_muon_adamw_has_everything() -> None:
    model = PixelLLMForGroundedGeneration(PixelLLMConfig.for_tests())
    assert optimizers_of(model).keys() == {"AdamW"}


def test_frozen_parts_leave_no_empty_optimizer() -> None:
    model = nn.Linear(3, 2)
    model.bias.requires_grad_(False)
    assert optimizers_of(model, muon=True).keys() == {"Muon"}


def test_a_multiplied_learning_rate_is_muons_too() -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2))
    moved = optimizers_of(model, muon=True, lr_multipliers={"1.": 0.5})
    assert moved["Muon"] == {"0.weight": pytest.approx(0.1), "1.weight": pytest.approx(0.05)}


def test_a_step_of_muon_moves_a_matrix_along_all_its_directions_alike() -> None:
    torch.manual_seed(0)
    model = nn.Linear(8, 8, bias=False)
    before = model.weight.detach().clone()
    groups = parameter_groups(model, learning_rate=0.01)
    (muon,) = build_optimizers(model, groups, OptimizerConfig(learning_rate=0.01, muon=True))
    model.weight.grad = torch.outer(torch.ones(8), torch.ones(8)) + 0.1 * torch.randn(8, 8)  # one direction dominates
    assert torch.linalg.cond(model.weight.grad) > 20
    muon.step()
    assert torch.linalg.cond(model.weight.detach() - before) < 5


def test_muon_moves_the_parts_that_are_named_at_a_rate_of_its_own() -> None:
    model = nn.ModuleDict({"body": nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2)), "other": nn.Linear(4, 4)})
    assert linear_weights(model, ["body"]) == {"body.0.weight", "body.1.weight"}
    assert linear_weights(nn.ModuleDict({"model": model}), ["body.1"]) == {"model.body.1.weight"}
    config = OptimizerConfig(learning_rate=0.1, muon=True, muon_parts=["body"], muon_scale=1.5)
    adamw, muon = build_optimizers(model, parameter_groups(model, learning_rate=0.1), config)
    assert {name for group in muon.param_groups for name in group["names"]} == {"body.0.weight", "body.1.weight"}
    assert [group["base_lr"] for group in muon.param_groups] == [pytest.approx(0.15)]
    assert {group["base_lr"] for group in adamw.param_groups} == {0.1}
    with pytest.raises(ConfigError, match="bodies"):
        linear_weights(model, ["bodies"])
