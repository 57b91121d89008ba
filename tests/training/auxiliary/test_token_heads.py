"""Prompt tokens that learn what is where."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from pixelllm_hf.modeling.configuration_pixelllm import PixelLLMConfig
from pixelllm_hf.modeling.modeling_pixelllm import PixelLLMForGroundedGeneration
from pixelllm_hf.training.auxiliary.objective import TokenLearner
from pixelllm_hf.training.auxiliary.token_heads import QueryTokenHeads, TokenTaskConfig, objects_of_cells
from pixelllm_hf.training.config import ConfigError


def painted(*objects: tuple[int, tuple[int, int, int, int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Labels (1,2,10,10) of objects (class, box in cells), with ten times the class as attribute; boxes (1,4,10,10)."""
    labels, boxes = torch.zeros(1, 2, 10, 10, dtype=torch.int16), torch.zeros(1, 4, 10, 10)
    for number, (x0, y0, x1, y1) in objects:
        labels[0, :, y0:y1, x0:x1] = torch.tensor([number, 10 * number])[:, None, None]
        boxes[0, :, y0:y1, x0:x1] = torch.tensor([x0, y0, x1, y1])[:, None, None] / 10
    return labels, boxes


def test_every_object_is_in_the_cell_of_its_centre() -> None:
    # centres (2, 2), (7.5, 4), (9, 9) on a grid of 2 x 5 cells, each 2 wide and 5 high
    labels, boxes = objects_of_cells(*painted((3, (1, 1, 3, 3)), (1, (6, 2, 9, 6)), (2, (8, 8, 10, 10))), 2, 5)
    assert labels.tolist() == [[[0, 3, 0, 1, 0, 0, 0, 0, 0, 2], [0, 30, 0, 10, 0, 0, 0, 0, 0, 20]]]
    torch.testing.assert_close(boxes[0, 3], torch.tensor([0.75, 0.4, 0.3, 0.4]))
    torch.testing.assert_close(boxes[0, 9], torch.tensor([0.9, 0.9, 0.2, 0.2]))


def test_of_two_objects_in_a_cell_one_is_taken_whole() -> None:
    labels, boxes = objects_of_cells(*painted((1, (0, 0, 4, 2)), (2, (0, 2, 3, 4))), 1, 1)
    assert labels[0, :, 0].tolist() == [2, 20]
    torch.testing.assert_close(boxes[0, 0], torch.tensor([0.15, 0.3, 0.3, 0.2]))


def test_images_without_objects_and_padding_give_background() -> None:
    labels, boxes = painted()
    labels[:, :, 6:] = -1
    found, _ = objects_of_cells(labels, boxes, 2, 3)
    assert found.eq(0).all()
    heads = QueryTokenHeads(8, 6, 3, {"color": 4}, TokenTaskConfig(2, 3))
    output = heads(torch.randn(1, 6, 8, requires_grad=True), labels, boxes)
    output.loss.backward()
    assert torch.isfinite(output.loss) and output.loss_parts["box"] == 0 and output.loss_parts["color"] == 0


def test_the_heads_can_learn_what_the_tokens_carry() -> None:
    torch.manual_seed(0)
    labels, boxes = painted((3, (1, 1, 3, 3)), (1, (6, 2, 9, 6)), (2, (8, 8, 10, 10)))
    heads, tokens = QueryTokenHeads(16, 12, 3, {"color": 30}, TokenTaskConfig(2, 5)), torch.randn(1, 12, 16)
    optimizer = torch.optim.Adam(heads.parameters(), 0.05)
    for _ in range(150):
        output = heads(tokens, labels, boxes)
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
    assert output.loss_parts["object_accuracy"] == 1 and output.loss_parts["box"] < 0.02


def test_a_grid_of_more_cells_than_tokens_is_refused() -> None:
    with pytest.raises(ConfigError, match="needs 30 prompt tokens, but the model has 8"):
        QueryTokenHeads(16, 8, 3, {}, TokenTaskConfig(5, 6))


def test_only_the_way_to_the_tokens_learns() -> None:
    model = PixelLLMForGroundedGeneration(PixelLLMConfig.for_tests())
    heads = QueryTokenHeads(
        model.language_model.width, model.config.prompt_config.num_tokens, 3, {}, TokenTaskConfig(1, 2)
    )
    labels, boxes = painted((3, (1, 1, 3, 3)))
    TokenLearner(model, heads)(
        torch.rand(1, 3, 64, 64) * 255, torch.ones(1, 64, 64, dtype=torch.bool), labels[:, :1], boxes
    ).loss.backward()
    learnt = [name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()]
    assert {name.rpartition("visual_projection")[1] or name.split(".")[0] for name in learnt} == {
        "prompt_feature_extractor",
        "visual_projection",
    }


def test_the_result_is_a_whole_model_with_other_tokens(train_a_part: Callable[..., Any], tmp_path: Path) -> None:
    printed, changed = train_a_part("prompt_tokens", label_cells=8, tokens={"rows": 1, "columns": 2})
    assert "object accuracy" in printed
    assert changed == {"prompt_feature_extractor", "language_model"}
    assert "heads.class.weight" in load_file(tmp_path / "run" / "model" / "token_heads.safetensors")
