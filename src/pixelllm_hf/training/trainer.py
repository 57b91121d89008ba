"""The training loop around accelerate: any model whose `forward(**batch)` gives `.loss` and `.loss_parts`.

Batches are a pure function of (seed, index), the optimizer's state and every random state are in the checkpoint, and
the schedule is a function of the step: a run that was killed continues with the same losses to the last digit (on CPU).
"""

from __future__ import annotations

import json
import math
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, cast

import accelerate
import datasets
import torch
import transformers
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, gather_object, send_to_device, set_seed
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from tqdm.auto import tqdm

from pixelllm_hf.files import atomic_text
from pixelllm_hf.folders import FolderInUseError, folder_lock
from pixelllm_hf.training import checkpointing, sharding
from pixelllm_hf.training.batch_stream import (
    BatchError,
    BatchSource,
    DealtBatches,
    batch_size,
    batch_stream,
    differing_sizes,
)
from pixelllm_hf.training.config import ConfigError, OptimizerConfig, RunConfig, to_dict
from pixelllm_hf.training.freed_memory import keep_freed_memory
from pixelllm_hf.training.log_window import LogWindow
from pixelllm_hf.training.optimizers import build_optimizers, learning_rate_factor
from pixelllm_hf.training.parameter_groups import configured_groups
from pixelllm_hf.training.run_checkpoints import RunCheckpoints
from pixelllm_hf.training.weight_average import WeightAverage

if TYPE_CHECKING:
    from torch.distributed.fsdp import FSDPModule


class NonFiniteLossError(RuntimeError):
    """The loss or its gradient became infinite or NaN; no checkpoint was written after it."""


class LostProcessError(RuntimeError):
    """Another process of the run has ended; the newest checkpoint is intact."""


def _training_attention(device: torch.device) -> AbstractContextManager[None]:
    """On CPUs the backward pass of torch's fused attention takes several times as long as plain matrix products."""
    return sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else nullcontext()


def start(run: RunConfig) -> Accelerator:
    """Set threads, seeds and precision; call it before the model is built."""
    if run.num_threads:
        torch.set_num_threads(run.num_threads)
    fsdp = _launched_for_fsdp()
    unused = DistributedDataParallelKwargs(find_unused_parameters=run.find_unused_parameters)
    accelerator = Accelerator(
        mixed_precision=run.mixed_precision,
        cpu=run.cpu,
        log_with=run.trackers or None,
        project_dir=run.output_dir,
        kwargs_handlers=[unused],
    )
    if accelerator.device.type == "cpu":  # see `_training_attention`; without this it would compute in float32
        torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(True)
        keep_freed_memory()
    if fsdp:
        run.shard = True
    if run.shard and run.mixed_precision == "fp16":
        raise ConfigError("sharded runs compute in bf16 or float32; set run.mixed_precision to either.")
    set_seed(run.seed)
    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()
    return accelerator


def _launched_for_fsdp() -> bool:
    """Whether `accelerate launch` was told to shard, which then is done here (see `sharding`)."""
    if os.environ.get("ACCELERATE_USE_DEEPSPEED", "false").lower() == "true":
        raise ConfigError(
            "this trainer does not run under DeepSpeed. Launch it with scripts/accelerate/fsdp2.yaml, which shares out "
            "the same; the DeepSpeed files are for transformers' Trainer."
        )
    return os.environ.pop("ACCELERATE_USE_FSDP", "false").lower() == "true"


class Trainer:
    """One training run.

    Args:
        save_model: writes a usable model into a folder: `save_model(model, folder, final)`, under the weight average
            where there is one. Called for every checkpoint and, with `final=True`, at the end for `model/`.
        held_out: batches for the loss during training, the first `run.eval_batches` of it.
        evaluate: further numbers during training: `evaluate(model, step) -> {name: value}`.
        trained_only: checkpoints hold the trainable weights alone (adapters on a large frozen model).
    """

    def __init__(
        self,
        model: nn.Module,
        batches: BatchSource,
        *,
        accelerator: Accelerator,
        run: RunConfig,
        optimizer: OptimizerConfig,
        recipe: Any = None,
        save_model: Callable[[nn.Module, Path, bool], None] | None = None,
        held_out: BatchSource | None = None,
        evaluate: Callable[[nn.Module, int], Mapping[str, float]] | None = None,
        trained_only: bool = False,
    ):
        self.accelerator, self.run_config, self.optimizer_config = accelerator, run, optimizer
        self.recipe = {} if recipe is None else to_dict(recipe)
        self.output_dir = Path(run.output_dir)
        self.bare_model, self.batches, self.held_out = model, batches, held_out
        self.save_model, self.evaluate_hook = save_model, evaluate
        self.batches_per_step = checkpointing.batches_per_step(run, accelerator.num_processes)
        if run.gradient_checkpointing:
            _checkpoint_layers(model)
        self.sharded = run.shard and accelerator.num_processes > 1
        if self.sharded:
            if optimizer.muon or optimizer.ema_decay:
                raise ConfigError("sharded runs have no muon and no ema_decay; leave them out, or run.shard.")
            if not hasattr(model, "_no_split_modules"):
                raise ConfigError("sharded runs learn from data.sources alone, without auxiliary and reward.")
            model.to(accelerator.device)
            sharding.shard(model, accelerator.device, accelerator.num_processes)
        groups = configured_groups(model, optimizer)
        self.bare_optimizers = build_optimizers(model, groups, optimizer)
        if self.sharded:
            self.model, self.optimizers = model, list(map(accelerator.prepare, self.bare_optimizers))
        else:
            self.model, *self.optimizers = accelerator.prepare(model, *self.bare_optimizers)
        self.trained = [p for p in model.parameters() if p.requires_grad]
        self.average = WeightAverage(model, optimizer.ema_decay) if optimizer.ema_decay else None
        self.checkpoints = RunCheckpoints(
            *(model, self.bare_optimizers, self.average),
            accelerator=accelerator,
            run=run,
            save_model=save_model,
            trained_only=trained_only,
        )
        self.step = 0
        self.window = LogWindow()
        self.last_metrics: dict[str, float] = {}
        self.stop_signal: int | None = None

    # ---------------------------------------------------------------- the loop

    def run(self) -> dict[str, float]:
        """Train to `total_steps`, or until the time is up; returns the last metrics.

        Another run in the same folder is a `FolderInUseError`.
        """
        with self._alone():
            try:
                return self._run()
            except RuntimeError as error:
                if self.accelerator.num_processes == 1 or not _process_is_gone(error):
                    raise
                raise LostProcessError(
                    f"Another process of this run has ended, so step {self.step + 1} could not be finished. The newest "
                    f"checkpoint in {str(self.output_dir / 'checkpoints')!r} is intact; the same command continues "
                    "from it, also with another number of processes. If nobody ended it, look for its own message "
                    "above, or for the system's about memory."
                ) from error

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """The output folder for this run: its first process takes it, and all learn whether it could."""
        with ExitStack() as stack:
            refusal = ""
            if self.accelerator.is_main_process:
                try:
                    stack.enter_context(folder_lock(self.output_dir, "a training"))
                except FolderInUseError as error:
                    refusal = str(error)
            if refusal := next((told for told in gather_object([refusal]) if told), ""):
                raise FolderInUseError(refusal)
            yield

    def _run(self) -> dict[str, float]:
        run, accelerator = self.run_config, self.accelerator
        self._check_same_data()
        self.step, self.window = self.checkpoints.resume()
        if accelerator.is_main_process:
            text = json.dumps(self.recipe | {"versions": _versions()}, indent=2)
            with atomic_text(self.output_dir / "args.json") as file:
                file.write(text)
        if run.trackers:
            accelerator.init_trackers("pixelllm")
        started, saved = time.monotonic(), self.step
        bar = tqdm(
            total=run.total_steps,
            initial=self.step,
            disable=not (run.progress and accelerator.is_main_process),
            mininterval=1.0,
            smoothing=0.05,
        )
        stopped = ""
        with self._signals(), bar:
            if self.step and self._main:
                bar.write(f"continues from step {self.step} of {run.total_steps}")
            stream = self._stream()
            while self.step < run.total_steps:
                self._train_step(stream)
                bar.update()
                if self.step % run.log_every == 0 or self.step == run.total_steps:
                    bar.set_postfix_str(self._log())
                stopped = self._stop_reason(started)
                if stopped or self.step % run.save_every == 0 or self.step == run.total_steps:
                    self.save()  # before the evaluation, which is other people's code and may fail
                    saved = self.step
                if run.eval_every and self.step % run.eval_every == 0:
                    self._evaluate(bar)
                if stopped:
                    break
            if saved != self.step:
                self.save()
        return self._finish(time.monotonic() - started, stopped)

    def _check_same_data(self) -> None:
        """A source that is shorter for one process would have it draw other batches than its number says."""
        if self.accelerator.num_processes > 1:
            differing = differing_sizes(gather_object([getattr(self.batches, "sizes", None)]))
            if differing:
                raise BatchError(f"The processes have other data: {differing}. Copy the same files to every machine.")

    def _stream(self) -> Iterator[dict[str, Any]]:
        """The batches of this process from the present step on."""
        run, pinned = self.run_config, self.accelerator.device.type == "cuda"
        return batch_stream(self.batches, self._dealt, workers=run.workers, prefetch=run.prefetch, pin_memory=pinned)

    @property
    def _dealt(self) -> DealtBatches:
        return DealtBatches(
            self.batches_per_step,
            self.accelerator.num_processes,
            self.accelerator.process_index,
            self.step,
            self.run_config.total_steps,
        )

    def _train_step(self, stream: Iterator[dict[str, Any]]) -> None:
        run, accelerator = self.run_config, self.accelerator
        self.model.train()
        factor = learning_rate_factor(self.step, warmup_steps=run.warmup_steps, total_steps=run.total_steps)
        for group in [group for optimizer in self.bare_optimizers for group in optimizer.param_groups]:
            group["lr"] = group["base_lr"] * factor
        totals: dict[str, Tensor] = {}
        by_source: list[tuple[str, Tensor]] = []
        dealt = self._dealt
        own = sum(map(dealt.counts, range(dealt.rounds)))
        for micro in range(dealt.rounds):
            batch = next(stream)
            self.window.images += batch_size(batch) * dealt.dealt_in(micro)
            source = batch.pop("source", None)
            batch = self._to_device(batch)
            last = micro == dealt.rounds - 1
            with nullcontext() if last and not self.sharded else self._unsynchronized(last):
                with accelerator.autocast(), _training_attention(accelerator.device):
                    output = self.model(**batch)
                parts = {"loss": output.loss, **(output.loss_parts or {})} if dealt.counts(micro) else {}
                for name, value in parts.items():
                    totals[name] = totals.get(name, 0.0) + value.detach().float() / own
                    if source is not None and name != "loss":
                        by_source.append((f"{name}/{source}", value.detach()))
                # The mean over the step's batches: the processes' gradients are averaged, and some may have one less.
                share = 1.0 if dealt.counts(micro) else 0.0
                with _training_attention(accelerator.device):  # checkpointed layers attend again
                    accelerator.backward(output.loss * share / (dealt.per_step / dealt.processes))
        losses = self._mean_over_processes({name: value.item() for name, value in totals.items()}, own)
        accelerator.unscale_gradients()
        limit = self.optimizer_config.max_grad_norm
        norm = float(sharding.whole(nn.utils.clip_grad_norm_(self.trained, limit if limit else math.inf)))
        if not all(math.isfinite(value) for value in losses.values()):
            self._fail("loss", losses, norm)
        if not math.isfinite(norm) and accelerator.scaler is None:  # fp16's loss scaler skips such a step itself
            self._fail("gradient", losses, norm)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.step += 1
        if self.average:
            self.average.update(self.step)
        self.window.add([*losses.items(), ("grad_norm", norm)], self.optimizer_config.learning_rate * factor)
        # Of this process only. A part that a source does not have is 0 there and says nothing.
        self.window.add([(name, value) for name, v in by_source if (value := v.item())])

    def _unsynchronized(self, last: bool) -> AbstractContextManager[None]:
        """For all but the last of the batches of a step, whose gradients are summed here before they are shared."""
        if self.sharded:
            cast("FSDPModule", self.model).set_requires_gradient_sync(last)
            return nullcontext()
        return self.accelerator.no_sync(self.model)

    def _mean_over_processes(self, losses: dict[str, float], batches: int) -> dict[str, float]:
        """Of each part over the processes whose batches have it: their sources, and so their parts, may differ.

        batches: of this process, which its losses are the mean of.
        """
        if self.accelerator.num_processes == 1:
            return losses
        rows = gather_object([(losses, batches)])
        means = {}
        for name in dict.fromkeys(name for row, _ in rows for name in row):
            having = [(row[name], weight) for row, weight in rows if name in row]
            means[name] = fmean([value for value, _ in having], weights=[weight for _, weight in having])
        return means

    def _to_device(self, batch: dict[str, Any]) -> dict[str, Any]:
        return send_to_device(batch, self.accelerator.device, non_blocking=True)

    def _fail(self, what: str, losses: Mapping[str, float], norm: float) -> None:
        parts = ", ".join(f"{name} {value!r}" for name, value in losses.items())
        rate = self.bare_optimizers[0].param_groups[0]["lr"]
        raise NonFiniteLossError(
            f"The {what} of step {self.step + 1} is not finite: {parts}, gradient norm {norm!r}, learning rate "
            f"{rate:.3g}. Nothing was saved after it; the newest checkpoint in "
            f"{str(self.output_dir / 'checkpoints')!r} is intact. Resume with a lower learning_rate or a max_grad_norm."
        )

    # ---------------------------------------------------------------- numbers

    def _log(self) -> str:
        row = self.window.close(self.step)
        self.last_metrics |= {key: value for key, value in row.items() if key != "step"}
        self._write_row(row)
        return f"loss {row['loss']:.4f} · {row['images_per_second']:.1f} images/s"

    def _write_row(self, row: Mapping[str, Any]) -> None:
        if self.accelerator.is_main_process:
            with open(self.output_dir / "metrics.jsonl", "a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
        if self.run_config.trackers:
            self.accelerator.log({k: v for k, v in row.items() if k != "step"}, step=self.step)

    @torch.no_grad()
    def _evaluate(self, bar: tqdm) -> None:
        """Held-out loss and the caller's numbers, with the averaged weights; leaves no trace on the training."""
        row: dict[str, Any] = {"step": self.step}
        was_random = checkpointing.random_state_tensors()
        began = time.monotonic()
        self.bare_model.eval()
        with self.average.applied() if self.average else nullcontext():
            if self.held_out is not None:
                sums: dict[str, float] = {}
                counts: dict[str, int] = {}
                for index in range(self.run_config.eval_batches):
                    batch = self._to_device(self.held_out.batch_at(index))
                    batch.pop("source", None)
                    with self.accelerator.autocast():
                        output = self.bare_model(**batch)
                    for name, value in {"loss": output.loss, **(output.loss_parts or {})}.items():
                        sums[name] = sums.get(name, 0.0) + float(value)
                        counts[name] = counts.get(name, 0) + 1
                row |= {f"eval_{name}": sums[name] / counts[name] for name in sums}
            if self.evaluate_hook is not None:
                row |= {f"eval_{name}": float(v) for name, v in self.evaluate_hook(self.bare_model, self.step).items()}
        self.bare_model.train()
        checkpointing.restore_random_state(was_random)
        self.window.pause(time.monotonic() - began)
        self.last_metrics |= {key: value for key, value in row.items() if key != "step"}
        self._write_row(row)
        if self.accelerator.is_main_process and len(row) > 1:
            bar.write("step " + " · ".join(f"{k} {v:.4g}" if k != "step" else str(v) for k, v in row.items()))

    # ---------------------------------------------------------------- stopping

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Let SIGTERM and Ctrl-C finish the step and save, instead of losing the work since the last checkpoint."""

        def note(number: int, _: Any) -> None:
            if self.stop_signal is not None:
                raise KeyboardInterrupt  # asked twice: stop now
            self.stop_signal = number

        before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _stop_reason(self, started: float) -> str:
        limit = self.run_config.max_minutes
        reasons = [
            "a signal" if self.stop_signal is not None else "",
            "stop_at" if self.step == self.run_config.stop_at else "",
            "max_minutes" if limit is not None and time.monotonic() - started >= limit * 60 else "",
        ]
        reason = next((r for r in reasons if r), "")
        if self.accelerator.num_processes > 1:  # all processes must stop at the same step
            reason = next((r for r in gather_object([reason]) if r), "")
        return reason

    def _finish(self, seconds: float, stopped: str) -> dict[str, float]:
        metrics = {"step": self.step, "seconds": seconds, **self.last_metrics}
        with sharding.gathered(self.bare_model):
            if self._main and self.save_model is not None:
                averaged = self.average.applied() if self.average else nullcontext()
                with averaged, checkpointing.atomic_folder(self.output_dir / "model") as folder:
                    self.save_model(self.bare_model, folder, True)
        if self._main:
            report = metrics | {"stopped_by": stopped or "total_steps"}
            with atomic_text(self.output_dir / "metrics.json") as file:
                file.write(json.dumps(report, indent=2))
        self.accelerator.wait_for_everyone()
        if self.run_config.trackers:
            self.accelerator.end_training()
        return metrics

    # ---------------------------------------------------------------- checkpoints

    def save(self) -> Path:
        """Write the checkpoint of the present step: a usable model, and beside it all that resuming needs."""
        began = time.monotonic()
        target = self.checkpoints.save(self.step, self.window)
        self.window.pause(time.monotonic() - began)
        return target

    @property
    def _main(self) -> bool:
        return self.accelerator.is_main_process


def _checkpoint_layers(model: nn.Module) -> None:
    """Of the model of transformers that trains, perhaps within what teaches it."""
    for part in model.modules():
        if isinstance(part, transformers.PreTrainedModel) and part.supports_gradient_checkpointing:
            part.activation_checkpointing_enable()
            return
    raise ConfigError("run.gradient_checkpointing: this objective trains no model that has such layers. Leave it out.")


def _process_is_gone(error: RuntimeError) -> bool:
    """Whether a collective failed because one that takes part is not there any more, in gloo's words or NCCL's."""
    if isinstance(error, torch.distributed.DistError):
        return True
    told = str(error)
    return any(words in told for words in ("Connection closed by peer", "Connection reset by peer", "gloo", "NCCL"))


def _versions() -> dict[str, str]:
    return {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "accelerate": accelerate.__version__,
    }
