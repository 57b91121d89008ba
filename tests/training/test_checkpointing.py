"""Checkpoints are whole or absent, and hold the exact state."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from pixelllm_hf.training import checkpointing


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "checkpoints" / "step-0000001"
    with pytest.raises(RuntimeError, match="disk full"), checkpointing.atomic_folder(target) as folder:
        (folder / "half").write_text("x")
        raise RuntimeError("disk full")
    assert list(target.parent.iterdir()) == []
    with checkpointing.atomic_folder(target) as folder:
        (folder / "whole").write_text("x")
        assert not target.exists()
    assert [path.name for path in target.iterdir()] == ["whole"]
    assert list(target.parent.iterdir()) == [target]


def test_replacing_a_folder_leaves_the_old_one_when_it_fails(tmp_path: Path) -> None:
    target = tmp_path / "model"
    for content in ("old", "new"):
        with checkpointing.atomic_folder(target) as folder:
            (folder / "file").write_text(content)
    assert (target / "file").read_text() == "new"
    with pytest.raises(KeyboardInterrupt), checkpointing.atomic_folder(target) as folder:
        (folder / "file").write_text("newest")
        raise KeyboardInterrupt
    assert (target / "file").read_text() == "new"


def test_leftovers_of_a_killed_run_are_no_checkpoints(tmp_path: Path) -> None:
    leftover = tmp_path / "checkpoints" / ".step-0000003.17.tmp" / "training_state"
    leftover.mkdir(parents=True)
    (leftover / "state.json").write_text("{}")
    assert checkpointing.list_checkpoints(tmp_path) == []
    checkpointing.remove_leftovers(tmp_path)
    assert list((tmp_path / "checkpoints").iterdir()) == []


def test_the_optimizer_state_survives_the_round_trip(tmp_path: Path) -> None:
    def make() -> tuple[nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(0)
        model = nn.Linear(3, 2)
        names = [name for name, _ in model.named_parameters()]
        return model, torch.optim.AdamW([{"params": list(model.parameters()), "names": names}], fused=True)

    def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        model(torch.ones(1, 3)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    model, optimizer = make()
    step(model, optimizer)
    checkpointing.save_tensors(tmp_path / "o.safetensors", checkpointing.optimizer_tensors([optimizer]))
    checkpointing.save_tensors(tmp_path / "w.safetensors", checkpointing.model_tensors(model))
    other, other_optimizer = make()
    checkpointing.load_model_tensors(other, checkpointing.load_tensors(tmp_path / "w.safetensors"))
    tensors = checkpointing.load_tensors(tmp_path / "o.safetensors")
    checkpointing.load_optimizer_tensors([other_optimizer], tensors)
    step(model, optimizer)
    step(other, other_optimizer)
    assert torch.equal(model.get_parameter("weight"), other.get_parameter("weight"))
    with pytest.raises(checkpointing.CheckpointError, match="no trained parameter owns"):
        checkpointing.load_optimizer_tensors([make()[1]], tensors | {"gone/step": torch.zeros(())})


def test_random_states_survive_the_round_trip(tmp_path: Path) -> None:
    random.gauss(0, 1)
    np.random.standard_normal()
    checkpointing.save_tensors(tmp_path / "r.safetensors", checkpointing.random_state_tensors())

    def draw() -> tuple[float, float, float, float]:
        return random.gauss(0, 1), random.random(), float(np.random.standard_normal()), torch.rand(1).item()

    expected = draw()
    checkpointing.restore_random_state(checkpointing.load_tensors(tmp_path / "r.safetensors"))
    assert draw() == expected


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "weights.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{}")
    with pytest.raises(checkpointing.CheckpointError, match=r"weights.safetensors.*Delete that checkpoint"):
        checkpointing.load_tensors(tmp_path / "weights.safetensors")


def test_weights_of_another_model_are_refused() -> None:
    with pytest.raises(checkpointing.CheckpointError, match="shape"):
        checkpointing.load_model_tensors(nn.Linear(3, 2), checkpointing.model_tensors(nn.Linear(4, 2)))
    with pytest.raises(checkpointing.CheckpointError, match="1 missing"):
        checkpointing.load_model_tensors(nn.Linear(3, 2), {"weight": torch.zeros(2, 3)})
