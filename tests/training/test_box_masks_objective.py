"""Masks of true boxes, with towers that stay as they are."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate import Accelerator

from pixelllm_hf.training.box_masks_objective import TAUGHT, box_masks_objective, true_boxes
from pixelllm_hf.training.config import ConfigError, from_dict
from pixelllm_hf.training.recipe import TrainConfig


def recipe(squares: SimpleNamespace, tokenizer_folder: Path, cache: Path, task: str = "segment") -> TrainConfig:
    source = {"format": "coco_instances", "task": task, "annotations": str(squares.instances), "max_prompts": 2}
    data: dict[str, Any] = {"sources": [{**source, "images": str(squares.images), "flip": 0.5}], "batch_size": 4}
    overrides = {"text_config": {"vocab_size": 1024}}
    return from_dict(
        TrainConfig,
        {
            "objective": "box_masks",
            "model": {
                "init": "for_tests",
                "processor": str(tokenizer_folder),
                "overrides": overrides,
                "freeze": ["vision_towers"],
            },
            "data": {**data, "cache_dir": str(cache), "cache_features": True},
        },
    )


def test_masks_of_boxes_are_learnt_and_only_the_decoder_changes(
    squares: SimpleNamespace, tokenizer_folder: Path, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    objective = box_masks_objective(recipe(squares, tokenizer_folder, tmp_path), Accelerator(cpu=True))
    taught = {name: p for name, p in objective.module.named_parameters() if p.requires_grad}
    assert taught and all(name.removeprefix("model.").startswith(TAUGHT) for name in taught)
    optimizer = torch.optim.AdamW(taught.values(), lr=3e-3)
    losses = []
    for step in range(40):
        batch = objective.batches.batch_at(step % 3)
        batch.pop("source")
        output = objective.module(**batch)
        output.loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(output.loss.detach()))
    assert sum(losses[-3:]) < 0.8 * sum(losses[:3])
    assert 0 <= float(output.loss_parts["mask_iou"]) <= 1


def test_a_rows_box_is_that_of_its_last_label_with_one() -> None:
    points = torch.full((2, 3, 2, 2), float("nan"))
    points[0, 0], points[0, 1] = torch.zeros(2, 2), torch.tensor([[0.1, 0.2], [0.3, 0.4]])
    boxes = true_boxes(points)
    torch.testing.assert_close(boxes[0], torch.tensor([0.1, 0.2, 0.3, 0.4]))
    assert boxes[1].isnan().all()


def test_sources_of_other_tasks_are_refused(squares: SimpleNamespace, tokenizer_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="segment"):
        box_masks_objective(recipe(squares, tokenizer_folder, tmp_path, task="region"), Accelerator(cpu=True))
