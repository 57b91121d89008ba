"""The checkpoints of a run: a usable model, and beside it all that continuing exactly needs."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import gather_object, set_seed
from torch import Tensor, nn
from torch.optim import Optimizer

from pixelllm_hf.files import atomic_text
from pixelllm_hf.modeling.former_names import current_names
from pixelllm_hf.training import checkpointing, sharding
from pixelllm_hf.training.config import ConfigError, RunConfig
from pixelllm_hf.training.log_window import LogWindow
from pixelllm_hf.training.weight_average import WeightAverage


class RunCheckpoints:
    """Saves and restores what a run consists of: weights, moments, their mean, the log's window, random states.

    model: as it was before accelerate wrapped it; average, save_model, trained_only: see `Trainer`.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizers: list[Optimizer],
        average: WeightAverage | None,
        *,
        accelerator: Accelerator,
        run: RunConfig,
        save_model: Callable[[nn.Module, Path, bool], None] | None,
        trained_only: bool,
    ):
        self.model, self.optimizers, self.average = model, optimizers, average
        self.accelerator, self.run_config, self.output_dir = accelerator, run, Path(run.output_dir)
        self.save_model, self.trained_only = save_model, trained_only
        self.batches_per_step = checkpointing.batches_per_step(run, accelerator.num_processes)

    @property
    def is_sharded(self) -> bool:
        """Every process holds a share of the weights and moments."""
        return self.run_config.shard and self.accelerator.num_processes > 1

    @property
    def _main(self) -> bool:
        return self.accelerator.is_main_process

    def save(self, step: int, window: LogWindow) -> Path:
        """Write the checkpoint of a step."""
        target = checkpointing.checkpoint_path(self.output_dir, step)
        random_states = gather_object([checkpointing.random_state_tensors()])
        stored = set(checkpointing.stored_names(self.model, trained_only=self.trained_only))
        wanted = stored.__contains__ if self.trained_only else lambda name: True
        moments = checkpointing.optimizer_tensors(self.optimizers) if self.is_sharded or self._main else {}
        with sharding.gathered(self.model, keep=wanted):
            if self._main:
                state = {"step": step, "window": window.to_dict(), "layout": self._layout()}
                self._write(target, state, moments, random_states)
        self.accelerator.wait_for_everyone()
        return target

    def _write(
        self, target: Path, state: dict[str, Any], moments: dict[str, Tensor], random_states: list[dict[str, Tensor]]
    ) -> None:
        with checkpointing.atomic_folder(target) as folder:
            if self.save_model is not None:
                with self.average.applied() if self.average else nullcontext():
                    self.save_model(self.model, folder, False)
            inside = folder / checkpointing.STATE_FOLDER
            inside.mkdir()
            weights = checkpointing.model_tensors(self.model, trained_only=self.trained_only)
            checkpointing.save_tensors(inside / "weights.safetensors", weights)
            checkpointing.save_tensors(inside / "optimizer.safetensors", moments)
            if self.average:
                checkpointing.save_tensors(inside / "weight_average.safetensors", self.average.means)
            for rank, tensors in enumerate(random_states):
                checkpointing.save_tensors(inside / f"random-{rank}.safetensors", tensors)
            (inside / "state.json").write_text(json.dumps(state), encoding="utf-8")
        checkpointing.keep_newest(self.output_dir, self.run_config.keep_last)

    def _layout(self) -> dict[str, Any]:
        """What must be the same for a resumed run to continue exactly."""
        scaler = self.accelerator.scaler
        run = self.run_config
        return {
            "num_processes": self.accelerator.num_processes,
            "gradient_accumulation": run.gradient_accumulation,
            "batches_per_step": self.batches_per_step,
            "total_steps": run.total_steps,
            "warmup_steps": run.warmup_steps,
            "seed": run.seed,
            "mixed_precision": run.mixed_precision,
            "loss_scale": scaler.get_scale() if scaler is not None else None,
        }

    def resume(self) -> tuple[int, LogWindow]:
        """Go on from the checkpoint that the recipe asks for: the step that was reached, 0 without one, and its log."""
        run, main = self.run_config, self._main
        step, window = 0, LogWindow()
        found = checkpointing.list_checkpoints(self.output_dir)
        if run.resume == "never" and found:
            raise ConfigError(
                f"resume=never, but {str(self.output_dir)!r} holds {len(found)} checkpoint(s); "
                "choose another output_dir, delete them, or use resume=auto."
            )
        if run.resume not in ("auto", "never"):
            chosen: Path | None = Path(run.resume)
            if not (Path(run.resume) / checkpointing.STATE_FOLDER / "state.json").is_file():
                raise checkpointing.CheckpointError(
                    f"resume names {run.resume!r}, which is no complete checkpoint (no "
                    f"{checkpointing.STATE_FOLDER}/state.json); give a step-… folder or resume=auto."
                )
        else:
            chosen = found[-1] if found else None
        if main:
            checkpointing.remove_leftovers(self.output_dir)
        if chosen is not None:
            step, window = self._load(chosen)
        if main:
            self._trim_log(step)
        self.accelerator.wait_for_everyone()
        return step, window

    def _load(self, checkpoint: Path) -> tuple[int, LogWindow]:
        try:
            return self._load_state(checkpoint)
        except (KeyError, TypeError, ValueError, IndexError, AttributeError, RuntimeError) as error:
            if isinstance(error, checkpointing.CheckpointError):
                raise
            raise checkpointing.CheckpointError(
                f"{str(checkpoint)!r} is damaged ({type(error).__name__}: {error}). Delete that folder to continue "
                "from the one before it."
            ) from error

    def _load_state(self, checkpoint: Path) -> tuple[int, LogWindow]:
        state = checkpoint / checkpointing.STATE_FOLDER
        saved = checkpointing.load_json(state / "state.json")
        layout = self._layout() | {"loss_scale": saved["layout"]["loss_scale"]}
        if self.run_config.resume not in ("auto", "never"):  # a named checkpoint may go on with another schedule
            layout |= {name: saved["layout"][name] for name in ("total_steps", "warmup_steps")}
        before = saved["layout"]
        before = {"batches_per_step": checkpointing.saved_batches_per_step(before), **before}
        for name in ("num_processes", "gradient_accumulation"):  # as many batches a step are what counts
            layout.pop(name)
        changed = [f"{k} was {before.get(k)!r} and is {v!r}" for k, v in layout.items() if before.get(k) != v]
        if changed:
            raise checkpointing.CheckpointError(
                f"{str(checkpoint)!r} cannot be continued exactly: {'; '.join(changed)}. Use the recipe that wrote it; "
                f"to go on with another schedule say resume={checkpoint}."
            )
        weights = current_names(checkpointing.load_tensors(state / "weights.safetensors"))
        checkpointing.load_model_tensors(self.model, weights, trained_only=self.trained_only)
        moments = current_names(checkpointing.load_tensors(state / "optimizer.safetensors"))
        checkpointing.load_optimizer_tensors(self.optimizers, moments)
        if self.average:
            means = checkpointing.load_tensors(state / "weight_average.safetensors")
            self.average.load(current_names(means))
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.update(saved["layout"]["loss_scale"])
        self._restore_random_state(state, saved["step"])
        return saved["step"], LogWindow.from_dict(saved["window"])

    def _restore_random_state(self, state: Path, step: int) -> None:
        """That of this process; a process that the run did not have begins with one of its own."""
        file = state / f"random-{self.accelerator.process_index}.safetensors"
        if file.is_file():
            checkpointing.restore_random_state(checkpointing.load_tensors(file))
        else:
            set_seed((self.run_config.seed + 7919 * step + self.accelerator.process_index) % 2**32)

    def _trim_log(self, step: int) -> None:
        """Drop the rows that a killed run logged after its last checkpoint: they are about to be logged again."""
        path = self.output_dir / "metrics.jsonl"
        if not path.exists():
            return
        kept = []
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                if json.loads(line)["step"] <= step:
                    kept.append(line)
            except (ValueError, KeyError):  # the last line of a killed run may be cut
                continue
        with atomic_text(path) as file:
            file.writelines(f"{line}\n" for line in kept)
