"""The training loop: exact resume after a kill, refusal of non-finite losses, whole or absent checkpoints."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from safetensors import SafetensorError
from torch import nn

from pixelllm_hf.folders import FolderInUseError, folder_lock
from pixelllm_hf.training import checkpointing
from pixelllm_hf.training.batch_stream import BatchError, LoaderError, batch_stream
from pixelllm_hf.training.config import ConfigError, OptimizerConfig, RunConfig
from pixelllm_hf.training.trainer import NonFiniteLossError, Trainer, start

Launcher = Callable[..., Any]


class Line(nn.Module):
    """y = a x + b with dropout on x, so that the random state matters."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(4, 3)
        self.b = nn.Parameter(torch.zeros(3))

    def forward(self, pixel_values: torch.Tensor, target: torch.Tensor) -> SimpleNamespace:
        predicted = self.a(nn.functional.dropout(pixel_values, 0.3, self.training)) + self.b
        loss = (predicted - target).square().mean()
        return SimpleNamespace(loss=loss, loss_parts={"square": loss, "bias": self.b.abs().sum()})


class Numbers:
    """Batch number i; `poison` asks of one batch what no loss can express."""

    def __init__(self, poison: int | None = None):
        self.poison = poison

    def batch_at(self, index: int) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(index)
        x = torch.randn(8, 4, generator=generator)
        target = x[:, :3] * 2 + 1
        return {"pixel_values": x, "target": target * 1e30 if index == self.poison else target}


def trainer(
    folder: Path, *, batches: Numbers | None = None, ema: float | None = 0.9, muon: bool = False, **run: object
) -> Trainer:
    settings = {"total_steps": 12, "warmup_steps": 3, "log_every": 1, "save_every": 4, "progress": False, "cpu": True}
    config = RunConfig(output_dir=str(folder), **{**settings, **run})  # type: ignore[arg-type]
    accelerator = start(config)
    optimizer = OptimizerConfig(learning_rate=1e-2, weight_decay=0.1, ema_decay=ema, muon=muon)
    return Trainer(Line(), batches or Numbers(), accelerator=accelerator, run=config, optimizer=optimizer)


def losses(folder: Path) -> list[str]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [repr((row["step"], row["loss"], row["grad_norm"], row["learning_rate"])) for row in rows if "loss" in row]


@pytest.mark.parametrize(("accumulation", "muon"), [(1, False), (2, False), (1, True)])
def test_a_stopped_run_continues_with_the_same_losses(tmp_path: Path, accumulation: int, muon: bool) -> None:
    settings: dict[str, Any] = {"gradient_accumulation": accumulation, "muon": muon}
    whole = trainer(tmp_path / "whole", **settings)
    whole.run()
    first = trainer(tmp_path / "parts", max_minutes=0.0, **settings)
    first.run()
    assert first.step == 1
    second = trainer(tmp_path / "parts", **settings)
    torch.rand(7)  # whatever happens before the resume must not matter
    second.run()
    assert losses(tmp_path / "whole") == losses(tmp_path / "parts")
    for name, tensor in whole.bare_model.state_dict().items():
        assert torch.equal(tensor, second.bare_model.state_dict()[name])
    assert whole.average and second.average
    for name, mean in whole.average.means.items():
        assert torch.equal(mean, second.average.means[name])


def test_the_first_part_of_a_schedule_ends_where_it_is_told_to(tmp_path: Path) -> None:
    trainer(tmp_path / "whole").run()
    part = trainer(tmp_path / "part", stop_at=6)
    part.run()
    assert losses(tmp_path / "part") == losses(tmp_path / "whole")[:6]
    assert checkpointing.list_checkpoints(tmp_path / "part")[-1].name == "step-0000006"


def test_evaluation_during_training_does_not_change_it(tmp_path: Path) -> None:
    trainer(tmp_path / "without").run()
    observed = trainer(tmp_path / "with", eval_every=3, eval_batches=2)
    observed.held_out = Numbers()
    observed.evaluate_hook = lambda model, step: {"random": torch.rand(3).sum().item()}
    observed.run()
    assert losses(tmp_path / "without") == losses(tmp_path / "with")
    rows = [json.loads(line) for line in (tmp_path / "with" / "metrics.jsonl").read_text().splitlines()]
    assert {"eval_loss", "eval_square", "eval_random"} <= set(rows[3])


def test_a_non_finite_loss_stops_and_leaves_the_checkpoint(tmp_path: Path) -> None:
    run = trainer(tmp_path, batches=Numbers(poison=6))
    with pytest.raises(NonFiniteLossError, match=r"loss of step 7 .*square inf.*bias [0-9.]+"):
        run.run()
    (kept,) = checkpointing.list_checkpoints(tmp_path)
    assert kept.name == "step-0000004"
    tensors = checkpointing.load_tensors(kept / "training_state" / "weights.safetensors")
    assert all(t.isfinite().all() for t in tensors.values())


class Damaged(Numbers):
    """Of batch 6 something is wrong: the error, or what is laid over it."""

    def __init__(self, wrong: Exception | dict[str, Any]):
        super().__init__()
        self.wrong = wrong

    def batch_at(self, index: int) -> dict[str, Any]:
        batch = super().batch_at(index)
        if index == 6 and isinstance(self.wrong, Exception):
            raise self.wrong
        return batch | self.wrong if index == 6 and isinstance(self.wrong, dict) else batch


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"pixel_values": torch.full((8, 4), math.nan)}, r"pixel_values is not finite \(NaN or infinite\)"),
        ({"features": {"fused": torch.full((2,), math.inf)}}, r"features\.fused is not finite"),
        (StopIteration(), "its data ended early"),
        (IndexError("index 12 is out of bounds"), "its data ended early .*index 12"),
        (FileNotFoundError(2, "No such file", "7.jpg"), r".*No such file.*7\.jpg"),
        (ValueError("image '7' is damaged."), "image '7' is damaged"),
    ],
)
def test_a_batch_that_cannot_be_read_is_one_error_and_leaves_the_checkpoint(
    tmp_path: Path, wrong: Any, said: str, workers: int
) -> None:
    with pytest.raises(BatchError, match=f"^Batch 6 cannot be read: {said}") as caught:
        trainer(tmp_path, batches=Damaged(wrong), workers=workers).run()
    assert "\n" not in str(caught.value)
    assert [path.name for path in checkpointing.list_checkpoints(tmp_path)] == ["step-0000004"]
    trainer(tmp_path).run()  # mended
    assert len(losses(tmp_path)) == 12


def test_labels_may_be_unknown(tmp_path: Path) -> None:
    class Labelled(Numbers):
        def batch_at(self, index: int) -> dict[str, Any]:
            x = torch.full((8, 4), math.nan)
            return {"point_labels": x, "known": x.new_ones(8, 4)}

    stream = batch_stream(Labelled(), range(2), workers=0, prefetch=None, pin_memory=False)
    assert len(list(stream)) == 2


def test_a_mistake_of_a_program_is_shown_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="of a program"):
        trainer(tmp_path, batches=Damaged(TypeError("of a program"))).run()


def test_the_log_tells_sources_apart(tmp_path: Path) -> None:
    class Named(Numbers):
        def batch_at(self, index: int) -> dict[str, Any]:
            return {**super().batch_at(index), "source": "odd" if index % 2 else "even"}

    trainer(tmp_path, batches=Named(), log_every=4).run()
    row = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[0])
    assert row["square"] == pytest.approx((row["square/odd"] + row["square/even"]) / 2)


def test_only_the_newest_checkpoints_stay(tmp_path: Path) -> None:
    trainer(tmp_path, save_every=2, keep_last=3).run()
    names = [path.name for path in checkpointing.list_checkpoints(tmp_path)]
    assert names == ["step-0000008", "step-0000010", "step-0000012"]


def test_a_changed_recipe_is_not_resumed(tmp_path: Path) -> None:
    trainer(tmp_path, max_minutes=0.0).run()
    with pytest.raises(checkpointing.CheckpointError, match="total_steps was 12 and is 20"):
        trainer(tmp_path, total_steps=20).run()
    longer = trainer(tmp_path, total_steps=20, resume=str(checkpointing.list_checkpoints(tmp_path)[-1]))
    longer.run()
    assert longer.step == 20
    with pytest.raises(ConfigError, match="resume=never"):
        trainer(tmp_path, resume="never").run()


def test_the_weight_average_is_what_is_saved(tmp_path: Path) -> None:
    saved = {}

    def save(model: nn.Module, folder: Path, final: bool) -> None:
        saved[final] = model.get_parameter("b").detach().clone()

    run = trainer(tmp_path, ema=0.9)
    run.save_model = save
    run.run()
    assert run.average
    assert torch.equal(saved[True], run.average.means["b"])
    assert not torch.equal(saved[True], run.bare_model.get_parameter("b"))


def recipe(folder: Path, squares: SimpleNamespace, tokenizer: Path, **run: object) -> Path:
    sources = [
        {
            "name": "trace",
            "format": "localized_narratives",
            "annotations": str(squares.narratives),
            "images": str(squares.images),
            "weight": 2,
        },
        {
            "name": "refer",
            "format": "referring_expressions",
            "annotations": str(squares.refs),
            "instances": str(squares.instances),
            "images": str(squares.images),
            "max_prompts": 2,
        },
        {
            "name": "region",
            "format": "visual_genome",
            "annotations": str(squares.regions),
            "image_data": str(squares.image_data),
            "images": str(squares.images),
            "max_prompts": 2,
        },
    ]
    dropout = {"text_config": {"dropout_rate": 0.1}}
    values = {
        "model": {"init": "for_tests", "processor": str(tokenizer), "overrides": dropout},
        "data": {"sources": sources, "batch_size": 4, "cache_dir": str(folder / "cache")},
        "optimizer": {"learning_rate": 1e-3, "layer_decay": 0.8, "ema_decay": 0.99},
        "run": {
            "output_dir": str(folder / "run"),
            "total_steps": 11,
            "warmup_steps": 2,
            "mixed_precision": "bf16",
            "cpu": True,
            "num_threads": 1,
            "workers": 1,
            "log_every": 1,
            "save_every": 4,
            "progress": False,
            **run,
        },
    }
    path = folder / "recipe.yaml"
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return path


def test_a_run_killed_at_any_step_continues_with_the_same_losses(
    tmp_path: Path, squares: SimpleNamespace, tokenizer_folder: Path, launch: Launcher
) -> None:
    whole = recipe(tmp_path / "whole", squares, tokenizer_folder)
    killed = recipe(tmp_path / "killed", squares, tokenizer_folder)
    reference = launch("train.py", whole)
    victim = launch("train.py", killed)
    log = tmp_path / "killed" / "run" / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not (log.exists() and log.read_text().count("\n") >= 5):
        time.sleep(0.002)
    victim.process.send_signal(signal.SIGKILL)
    victim.process.communicate()
    assert victim.process.returncode == -signal.SIGKILL
    assert not (tmp_path / "killed" / "run" / "model").exists()
    reference.finish()
    launch("train.py", killed).finish()
    assert losses(tmp_path / "killed" / "run") == losses(tmp_path / "whole" / "run")
    weights = [
        checkpointing.load_tensors(tmp_path / name / "run" / "model" / "model.safetensors")
        for name in ("whole", "killed")
    ]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


@pytest.mark.slow
def test_two_processes_train_together(
    tmp_path: Path, squares: SimpleNamespace, tokenizer_folder: Path, launch: Launcher
) -> None:
    config = recipe(tmp_path, squares, tokenizer_folder, total_steps=4, workers=0)
    prefix = ("-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1")
    launch("train.py", config, prefix=prefix, ACCELERATE_USE_CPU="true").finish()
    state = checkpointing.load_json(tmp_path / "run" / "checkpoints" / "step-0000004" / "training_state" / "state.json")
    assert state["layout"]["num_processes"] == 2
    assert (tmp_path / "run" / "checkpoints" / "step-0000004" / "training_state" / "random-1.safetensors").is_file()
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert len(rows) == 4 and all(math.isfinite(row["loss"]) for row in rows)


@pytest.mark.slow
def test_processes_whose_batches_have_different_parts_do_not_wait_for_each_other_for_ever(tmp_path: Path) -> None:
    program = Path(__file__).with_name("parts_by_process.py")
    subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone", program, tmp_path],
        env={**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"},
        check=True,
        timeout=300,
    )
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(row["mask"], row["text"], row["point"], row["square"]) for row in rows] == [(2.0, 3.0, 4.0, 5.5)] * 2


def test_a_second_run_in_the_same_folder_is_refused_and_the_first_is_left_alone(tmp_path: Path) -> None:
    target = checkpointing.checkpoint_path(tmp_path, 1)
    with folder_lock(tmp_path, "a training"), checkpointing.atomic_folder(target) as half:
        with pytest.raises(FolderInUseError, match=f"process {os.getpid()}"):
            trainer(tmp_path).run()
        (half / "file").write_text("whole")
    assert (target / "file").exists()
    trainer(tmp_path).run()


class Killing(Numbers):
    """The process that loads batch 3 is killed, as the system does when memory is full."""

    def batch_at(self, index: int) -> dict[str, torch.Tensor]:
        if index == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().batch_at(index)


def test_a_killed_loader_process_is_an_error_that_says_so_and_keeps_the_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(LoaderError, match="run.workers"):
        trainer(tmp_path, batches=Killing(), workers=1, prefetch=1, save_every=2).run()
    assert [path.name for path in checkpointing.list_checkpoints(tmp_path)] == ["step-0000002"]
    trainer(tmp_path).run()
    assert len(losses(tmp_path)) == 12


def test_a_full_disk_ends_the_run_and_keeps_the_checkpoint_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer(tmp_path, stop_at=4).run()
    half_written = []

    def full(tensors: Any, path: str, metadata: Any = None) -> None:
        Path(path).write_bytes(b"half")
        half_written.append(path)
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
        patch.setattr(checkpointing, "save_file", full)
        trainer(tmp_path).run()
    assert half_written and not Path(half_written[0]).exists()
    assert [path.name for path in checkpointing.list_checkpoints(tmp_path)] == ["step-0000004"]
    trainer(tmp_path).run()
    assert len(losses(tmp_path)) == 12


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("state.json", "[]"), ("state.json", "{}"), ("state.json", '{"step": "x", "layout": {}, "window": 3}'),
        ("state.json", "[" * 100_000), ("random-0.safetensors", ""), ("optimizer.safetensors", "cut"),
        ("weight_average.safetensors", None),
    ],
)  # fmt: skip
def test_a_damaged_checkpoint_is_an_error_that_names_it(tmp_path: Path, file: str, content: str | None) -> None:
    trainer(tmp_path, stop_at=4).run()
    (checkpoint,) = checkpointing.list_checkpoints(tmp_path)
    damaged = checkpoint / "training_state" / file
    damaged.unlink()
    if content is not None:
        damaged.write_text(content)
    with pytest.raises(checkpointing.CheckpointError, match=checkpoint.name):
        trainer(tmp_path).run()
