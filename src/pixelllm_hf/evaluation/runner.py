"""Run a model over pictures, task by task, and score what it answers."""

from __future__ import annotations

import platform
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

import pixelllm_hf
from pixelllm_hf.data.scenes import write_scenes
from pixelllm_hf.evaluation.baselines import Baseline
from pixelllm_hf.evaluation.bootstrap import Estimate
from pixelllm_hf.evaluation.scene_folder import VALIDATION_SEED, DataFolder
from pixelllm_hf.evaluation.sharing import Share
from pixelllm_hf.evaluation.tasks import TASKS, Task
from pixelllm_hf.evaluation.tasks.task import QUICK, Thoroughness
from pixelllm_hf.files import sha256_of_files
from pixelllm_hf.processing.grounded_results import GroundedCaption

VALIDATION_SCENES = 64


class CannotDoError(ValueError):
    """A task that a model is not made for."""


@dataclass(frozen=True)
class Asking:
    """How pictures are asked about: pictures per batch, and `generate`'s settings for tasks that search an answer.

    num_beams, no_repeat_ngram_size: None is what the checkpoint decodes with by default.
    """

    batch_size: int = 25
    max_new_tokens: int = 96
    num_beams: int | None = None
    no_repeat_ngram_size: int | None = None
    progress: bool = False

    def options(self, task: Task) -> dict[str, Any]:
        """For `generate`."""
        if not task.searches:
            return {}
        # As the checkpoint decodes, but also of answers that go round in circles, as in the paper.
        asked = {name: getattr(self, name) for name in ("num_beams", "no_repeat_ngram_size")}
        given = {name: value for name, value in asked.items() if value is not None}
        loops = {} if task.spec.writes_targets else {"max_repeated_tokens": 0}  # a PixelLM does not watch for them
        return {"max_new_tokens": self.max_new_tokens, **given, **loops}


@dataclass(frozen=True)
class Evaluation:
    """result: {"scenes", counts…, "metrics", "notes" and "curves" where there are any}; answers: a JSON record each."""

    result: dict[str, Any]
    answers: list[dict[str, Any]] = field(repr=False)


def answers_of(
    model: Any,
    processor: Any,
    task: Task,
    pictures: Sequence[Any],
    *,
    asking: Asking = Asking(),  # noqa: B008, it is frozen
    share: Share = Share(),  # noqa: B008
) -> Iterator[tuple[int, list[GroundedCaption]]]:
    """The index of every picture of this process, in order, and what the model says about it."""
    starts = share.starts(len(pictures), asking.batch_size)
    for start in tqdm(starts, unit="batch", disable=not asking.progress):
        chosen = pictures[start : start + asking.batch_size]
        inputs = task.inputs(processor, chosen)
        with torch.inference_mode():
            output = model.generate(
                **{name: value.to(model.device) for name, value in inputs.items()}, **asking.options(task)
            )
        yield from enumerate(task.answers(processor, output, inputs), start)


def evaluate(
    model: Any,
    processor: Any,
    task: Task,
    folder: str | Path | DataFolder,
    *,
    asking: Asking = Asking(),  # noqa: B008
    how: Thoroughness = Thoroughness(),  # noqa: B008
    limit: int | None = None,
    share: Share | None = None,
) -> Evaluation | None:
    """The numbers of a task on a folder; None in all processes but the main one, which must all call this.

    limit: pictures to look at, the first ones.
    """
    if problem := task.problem(model):
        raise CannotDoError(f"the model cannot do the task {task.name!r}: {problem}. Choose another task or model.")
    data, share = _data(folder), share or Share.of_this_process()
    pictures = task.read(data)[:limit]
    answered = answers_of(model, processor, task, pictures, asking=asking, share=share)
    records = share.gathered({i: task.record(pictures[i], answers) for i, answers in answered})
    forced: dict[str, Estimate] = {}
    if limit is None:
        forced = task.forced(model, processor, data, share, batch_size=asking.batch_size, progress=asking.progress)
    if not share.is_main:
        return None
    return _evaluation(task, pictures, records, how, forced)


def evaluate_baseline(
    baseline: Baseline,
    task: Task,
    folder: str | Path | DataFolder,
    *,
    how: Thoroughness = Thoroughness(),  # noqa: B008
    limit: int | None = None,
) -> Evaluation:
    """The same numbers of what a baseline answers in a model's place."""
    pictures = task.read(_data(folder))[:limit]
    answered = zip(pictures, task.guesses(pictures, baseline), strict=True)
    return _evaluation(task, pictures, [task.record(picture, answers) for picture, answers in answered], how, {})


def _data(folder: str | Path | DataFolder) -> DataFolder:
    return folder if isinstance(folder, DataFolder) else DataFolder(Path(folder))


def _evaluation(
    task: Task, pictures: Sequence[Any], records: Sequence[Any], how: Thoroughness, forced: Mapping[str, Estimate]
) -> Evaluation:
    scores = task.score(pictures, records, how)
    metrics = {name: vars(estimate) for name, estimate in {**scores.metrics, **forced}.items()}
    result = {"scenes": len(pictures), **scores.counts, "metrics": metrics}
    if scores.notes:
        result["notes"] = list(scores.notes)
    if scores.curves:
        result["curves"] = scores.curves
    return Evaluation(result, [task.listed(*pair) for pair in zip(pictures, records, strict=True)])


# --- during training --------------------------------------------------------------------------------------------


def validate(
    model: nn.Module, processor: Any, tasks: Sequence[str] | None = None, *, scenes: int | None = None
) -> dict[str, float]:
    """A quick look during training, for a recipe's `evaluate: pixelllm_hf.evaluation.runner:validate`.

    On a series of scenes that is neither trained nor reported on. tasks: by default all that the model has the heads
    for; others are a `CannotDoError`. In a run of several processes all of them must call this; they share the work
    and get the same numbers.
    """
    share, data = Share.of_this_process(), DataFolder(_validation_folder(scenes or VALIDATION_SCENES))
    able = [name for name, task in TASKS.items() if task.problem(model) is None]
    wanted = [name for name in able if TASKS[name].watched] if tasks is None else list(tasks)
    if unable := [name for name in wanted if name not in able]:
        raise CannotDoError(f"this model can be validated on {', '.join(able)}, but not on {', '.join(unable)}.")
    covered = {other for name in wanted for other in TASKS[name].covers}
    numbers: dict[str, float] = {}
    with evaluating(model):
        for name in [name for name in wanted if name not in covered]:
            task, pictures = TASKS[name], _validation_pictures(name, data)
            answered = answers_of(model, processor, task, pictures, share=share)
            records = share.gathered({i: task.record(pictures[i], answers) for i, answers in answered})
            for scored in (task, *(TASKS[other] for other in task.covers if other in wanted)):
                metrics = scored.score(pictures, records, QUICK).metrics
                numbers |= {shown: metrics[m].value for m, shown in scored.looks.items() if m in metrics}
    return numbers


@lru_cache(maxsize=1)
def _validation_folder(scenes: int) -> Path:
    """Composed once a process; the folder goes away with the process."""
    _validation_pictures.cache_clear()
    _kept.append(tempfile.TemporaryDirectory(prefix="pixelllm-validation-"))
    return write_scenes(Path(_kept[-1].name) / "scenes", scenes, VALIDATION_SEED, split="test")


_kept: list[tempfile.TemporaryDirectory] = []


@cache
def _validation_pictures(name: str, data: DataFolder) -> list[Any]:
    return TASKS[name].read(data)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation behaviour inside, what it was before outside."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


# --- what the numbers belong to ---------------------------------------------------------------------------------


def weights_digest(folder: str | Path) -> str | None:
    """SHA-256 over the weight files of a local model folder: which model a number belongs to. None for hub ids."""
    files = list(Path(folder).glob("*.safetensors"))
    return sha256_of_files(files) if files else None


def versions() -> dict[str, str]:
    """What the numbers were computed with."""
    import transformers

    return {
        "pixelllm_hf": pixelllm_hf.__version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
    }
