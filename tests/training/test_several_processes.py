"""Runs of two processes joined by gloo: what they learn, that shards are shards, and what a lost one leaves."""

from __future__ import annotations

import json
import os
import re
import runpy
import signal
import socket
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from pixelllm_hf import PixelLLMConfig, PixelLLMForGroundedGeneration
from pixelllm_hf.training import checkpointing
from pixelllm_hf.training.batch_stream import DealtBatches
from pixelllm_hf.training.config import ConfigError, RunConfig
from pixelllm_hf.training.trainer import start

ROOT = Path(__file__).parents[2]
STEPS = 20


class Forked:
    """scripts/train.py in processes that gloo joins, forked from this one, which has imported everything already."""

    def __init__(self, processes: int, arguments: list[str], output: Path):
        self.output = output
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.running = {}
        for rank in range(processes):
            if not (child := os.fork()):
                self._work(rank, processes, port, arguments)
            self.running[rank] = child

    def _work(self, rank: int, processes: int, port: int, arguments: list[str]) -> None:
        code = 1
        try:
            descriptor = os.open(f"{self.output}-{rank}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(descriptor, 1)
            os.dup2(descriptor, 2)
            sys.stdout, sys.stderr = (os.fdopen(d, "w", buffering=1) for d in (1, 2))
            os.environ |= {"ACCELERATE_USE_CPU": "true"}
            if processes > 1:
                os.environ |= {
                    "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes),
                    "LOCAL_WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
                }  # fmt: skip
            sys.argv = [word.replace("{rank}", str(rank)) for word in arguments]
            runpy.run_path(sys.argv[0], run_name="__main__")
            code = 0
        except SystemExit as stop:
            print(stop.code)
            code = 1 if stop.code else 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(code)

    def wait(self) -> dict[int, int]:
        """Exit codes by process; what does not end is killed."""
        codes: dict[int, int] = {}
        deadline = time.monotonic() + 900
        while self.running:
            for rank, child in list(self.running.items()):
                ended, status = os.waitpid(child, os.WNOHANG)
                if ended:
                    del self.running[rank]
                    codes[rank] = os.waitstatus_to_exitcode(status)
            if time.monotonic() > deadline:
                self.kill()
                pytest.fail(f"a run does not end: {self.printed()}")
            time.sleep(0.05)
        return codes

    def kill(self) -> None:
        for child in self.running.values():
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        self.running.clear()

    def printed(self) -> str:
        return "".join(file.read_text() for file in sorted(self.output.parent.glob(f"{self.output.name}-*")))


class Runs:
    """One recipe, run in several ways."""

    def __init__(self, squares: Any, tokenizer_folder: Path, folder: Path):
        self.folder = folder
        self.started: list[Forked] = []
        narratives = {
            "name": "narratives", "format": "localized_narratives", "annotations": str(squares.narratives),
            "images": str(squares.images),
        }  # fmt: skip
        refs = {
            "name": "refs", "format": "referring_expressions", "annotations": str(squares.refs),
            "instances": str(squares.instances), "images": str(squares.images),
        }  # fmt: skip
        self.recipe: dict[str, Any] = {
            "model": {"init": "for_tests", "processor": str(tokenizer_folder)},
            "data": {"batch_size": 2, "cache_dir": str(folder / "cache"), "sources": [narratives, refs]},
            "optimizer": {"learning_rate": 1e-3, "max_grad_norm": 1.0},
            "run": {
                "total_steps": STEPS, "warmup_steps": 2, "log_every": 1, "save_every": 5, "progress": False,
                "cpu": True, "num_threads": 1, "keep_last": 9,
            },
        }  # fmt: skip

    def start(self, name: str, *, processes: int = 1, **settings: Any) -> Forked:
        config = self.folder / f"{name}.yaml"
        run = self.recipe["run"] | {"output_dir": str(self.folder / name)} | settings
        config.write_text(yaml.safe_dump(self.recipe | {"run": run}))
        arguments = [str(ROOT / "scripts" / "train.py"), "--config", str(config)]
        self.started.append(Forked(processes, arguments, self.folder / f"{name}.txt"))
        return self.started[-1]

    def run(self, name: str, *, processes: int = 1, **settings: Any) -> str:
        started = self.start(name, processes=processes, **settings)
        codes = started.wait()
        assert set(codes.values()) == {0}, started.printed()
        return started.printed()

    def losses(self, name: str) -> list[float]:
        rows = [json.loads(line) for line in (self.folder / name / "metrics.jsonl").read_text().splitlines()]
        assert [row["step"] for row in rows] == list(range(1, len(rows) + 1))
        return [row["loss"] for row in rows]

    def layout(self, name: str, step: int) -> dict[str, Any]:
        folder = checkpointing.checkpoint_path(self.folder / name, step) / "training_state"
        return checkpointing.load_json(folder / "state.json")["layout"]


@pytest.fixture
def runs(squares: SimpleNamespace, tokenizer_folder: Path, tmp_path: Path) -> Iterator[Runs]:
    made = Runs(squares, tokenizer_folder, tmp_path)
    yield made
    for started in made.started:
        started.kill()


def test_two_processes_learn_what_one_does_sharded_or_not_and_a_run_goes_on_with_another_number(runs: Runs):
    runs.run("one", gradient_accumulation=2)
    runs.run("two", processes=2)
    printed = runs.run("shards", processes=2, shard=True, stop_at=5)
    assert runs.layout("two", 20)["num_processes"] == 2 and runs.layout("one", 20)["num_processes"] == 1
    assert runs.losses("two") == pytest.approx(runs.losses("one"), abs=1e-5)

    # parameters really are shards, and what is saved is the whole model
    shares = [float(share) for share in re.findall(r"sharded over 2 processes: this one holds ([\d.]+)%", printed)]
    assert len(shares) == 2 and all(40 < share < 60 for share in shares) and sum(shares) == pytest.approx(100, abs=0.2)
    whole = PixelLLMForGroundedGeneration.from_pretrained(runs.folder / "shards" / "model").state_dict()
    state = checkpointing.checkpoint_path(runs.folder / "two", 5) / "training_state"
    for name, tensor in load_file(state / "weights.safetensors").items():
        torch.testing.assert_close(whole[name], tensor, atol=1e-4, rtol=1e-3)

    # the sharded half of the run goes on in three processes, of which one has no batch in each step, and then in one:
    # the same batches, dealt out anew
    three = dict(processes=3, shard=True, gradient_checkpointing=True, stop_at=10)
    assert f"continues from step 5 of {STEPS}" in runs.run("shards", **three)
    assert runs.layout("shards", 10)["num_processes"] == 3
    assert f"continues from step 10 of {STEPS}" in runs.run("shards")
    assert runs.layout("shards", 20) | {"num_processes": 2} == runs.layout("two", 20)
    assert runs.losses("shards") == pytest.approx(runs.losses("one"), abs=1e-5)


@pytest.mark.parametrize("family", ["llama", "pixelllm_prefix_decoder"])
def test_language_models_that_write_behind_their_prompt_learn_sharded_what_they_learn_in_one_process(
    runs: Runs, family: str
):
    text = dict(
        model_type=family, vocab_size=99, hidden_size=32, intermediate_size=48, num_hidden_layers=2, pad_token_id=0,
        num_attention_heads=4, bos_token_id=2, eos_token_id=1, decoder_start_token_id=2,
    )  # fmt: skip
    text |= {} if family == "llama" else {"dropout_rate": 0.0}
    PixelLLMForGroundedGeneration(PixelLLMConfig.for_tests(text_config=text)).save_pretrained(runs.folder / "start")
    runs.recipe["model"]["init"] = str(runs.folder / "start")
    runs.run("one", gradient_accumulation=2, total_steps=3)
    printed = runs.run("shards", processes=2, shard=True, gradient_checkpointing=True, total_steps=3)
    assert printed.count("sharded over 2 processes") == 2
    assert runs.losses("shards") == pytest.approx(runs.losses("one"), abs=1e-5)


def test_a_lost_process_ends_the_run_with_a_message_and_a_state_that_resumes(runs: Runs):
    run = runs.start("lost", processes=2, total_steps=100_000, save_every=1)
    deadline = time.monotonic() + 600
    while len(checkpointing.list_checkpoints(runs.folder / "lost")) < 2:
        assert time.monotonic() < deadline, f"the run does not come to its start: {run.printed()}"
        time.sleep(0.1)
    os.kill(run.running[1], signal.SIGKILL)
    assert run.wait() == {0: 1, 1: -signal.SIGKILL}
    assert "LostProcessError: Another process of this run has ended" in run.printed()
    kept = checkpointing.list_checkpoints(runs.folder / "lost")[-1]
    step = int(kept.name.removeprefix("step-"))
    runs.run("lost", total_steps=100_000, stop_at=step + 2, save_every=1)
    assert len(runs.losses("lost")) == step + 2


@pytest.mark.parametrize(("per_step", "processes"), [(4, 2), (2, 3), (5, 2), (7, 3), (1, 4), (3, 1)])
def test_every_batch_of_a_step_counts_once_whatever_the_number_of_processes(per_step: int, processes: int):
    dealt = [DealtBatches(per_step, processes, rank, first=3, last=5) for rank in range(processes)]
    counted = sorted(index for own in dealt for number, index in enumerate(own) if own.counts(number % own.rounds))
    assert counted == list(range(3 * per_step, 5 * per_step))
    assert len({len(own) for own in dealt}) == 1  # nobody waits for one that has ended
    assert all(index // per_step == 3 + number // own.rounds for own in dealt for number, index in enumerate(own))


def test_a_run_keeps_its_batches_a_step_and_other_ones_are_refused(runs: Runs):
    runs.run("run", total_steps=2, save_every=2, gradient_accumulation=2)
    run = RunConfig(output_dir=str(runs.folder / "run"), gradient_accumulation=2)
    assert [checkpointing.batches_per_step(run, processes) for processes in (1, 2, 3)] == [2, 2, 2]
    changed = RunConfig(output_dir=str(runs.folder / "run"), gradient_accumulation=4)
    assert checkpointing.batches_per_step(changed, 1) == 4
    refused = runs.start("run", total_steps=2, gradient_accumulation=4)
    assert refused.wait() == {0: 1}
    assert "batches_per_step was 2 and is 4" in refused.printed()


def test_processes_with_other_data_are_refused(runs: Runs, squares: SimpleNamespace):
    lines = squares.narratives.read_text().splitlines()
    (runs.folder / "1.jsonl").write_text("\n".join(lines[:-1]) + "\n")
    (runs.folder / "0.jsonl").write_text("\n".join(lines) + "\n")
    source = runs.recipe["data"]["sources"][0]
    for rank in range(2):
        own = {"sources": [source | {"annotations": str(runs.folder / f"{rank}.jsonl")}], "batch_size": 2}
        run = runs.recipe["run"] | {"output_dir": str(runs.folder / "run")}
        (runs.folder / f"{rank}.yaml").write_text(yaml.safe_dump(runs.recipe | {"data": own, "run": run}))
    arguments = [str(ROOT / "scripts" / "train.py"), "--config", str(runs.folder / "{rank}.yaml")]
    runs.started.append(Forked(2, arguments, runs.folder / "run.txt"))
    assert set(runs.started[-1].wait().values()) == {1}
    told = "source 'narratives' has 12 rows in process 0 and 11 in process 1"
    assert runs.started[-1].printed().count(told) == 2


def test_deepspeed_is_refused_by_this_trainer_and_says_what_there_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    with pytest.raises(ConfigError, match=r"fsdp2\.yaml"):
        start(RunConfig(output_dir=str(tmp_path), cpu=True))


@pytest.mark.parametrize("name", ["ddp", "fsdp2", "cpu", "deepspeed_zero2", "deepspeed_zero3"])
def test_accelerate_knows_every_entry_of_its_files(name: str):
    from accelerate.commands.config.config_args import ClusterConfig

    config = ClusterConfig.from_yaml_file(yaml_file=str(ROOT / f"scripts/accelerate/{name}.yaml"))  # knows its entries
    assert config.num_processes > 1
    if name == "fsdp2":
        assert config.fsdp_config["fsdp_version"] == 2
    if name.startswith("deepspeed"):
        assert config.deepspeed_config["zero_stage"] == int(name[-1])
