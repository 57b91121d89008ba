"""Run a model over images, task by task, and score what it answers."""

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
from pixelllm_hf.decoding import decoding_options
from pixelllm_hf.evaluation.baselines import Baseline
from pixelllm_hf.evaluation.bootstrap import Estimate
from pixelllm_hf.evaluation.scene_folder import VALIDATION_SEED, DataFolder
from pixelllm_hf.evaluation.sharing import DistributedShard
from pixelllm_hf.evaluation.tasks import TASKS, Task
from pixelllm_hf.evaluation.tasks.task import QUICK, EvalSettings
from pixelllm_hf.files import sha256_of_files
from pixelllm_hf.processing.grounded_results import GroundedCaption

VALIDATION_SCENES = 64


class CannotDoError(ValueError):
    """A task that a model is not made for."""


@dataclass(frozen=True)
class GenerationSettings:
    """How images are asked about: images per batch, and `generate`'s settings for tasks that search an answer.

    max_new_tokens, num_beams, no_repeat_ngram_size: None is what the checkpoint decodes with by default.
    """

    batch_size: int = 25
    max_new_tokens: int | None = None
    num_beams: int | None = None
    no_repeat_ngram_size: int | None = None
    progress: bool = False

    def options(self, task: Task, model: Any) -> dict[str, Any]:
        """For `generate` of the model."""
        if not task.searches:
            return {}
        # As the checkpoint decodes, but also of answers that go round in circles, as in the paper.
        asked = {name: getattr(self, name) for name in ("max_new_tokens", "num_beams", "no_repeat_ngram_size")}
        # What points is asked as a user asks it: targets that are written for ever have masks that nobody meant.
        loops = {} if task.spec.writes_targets else {"max_repeated_tokens": 0}
        return decoding_options(model.generation_config, **asked) | loops


@dataclass(frozen=True)
class Evaluation:
    """result: {"scenes", counts…, "metrics", "notes" and "curves" where there are any}; answers: a JSON record each."""

    result: dict[str, Any]
    answers: list[dict[str, Any]] = field(repr=False)


def answers_of(
    model: Any,
    processor: Any,
    task: Task,
    images: Sequence[Any],
    *,
    generation: GenerationSettings = GenerationSettings(),  # noqa: B008, it is frozen
    share: DistributedShard = DistributedShard(),  # noqa: B008
) -> Iterator[tuple[int, list[GroundedCaption]]]:
    """The index of every image of this process, in order, and what the model says about it."""
    starts = share.starts(len(images), generation.batch_size)
    for start in tqdm(starts, unit="batch", disable=not generation.progress):
        chosen = images[start : start + generation.batch_size]
        inputs = task.inputs(processor, chosen)
        with torch.inference_mode():
            output = model.generate(
                **{name: value.to(model.device) for name, value in inputs.items()}, **generation.options(task, model)
            )
        yield from enumerate(task.answers(processor, output, inputs), start)


def evaluate(
    model: Any,
    processor: Any,
    task: Task,
    folder: str | Path | DataFolder,
    *,
    generation: GenerationSettings = GenerationSettings(),  # noqa: B008
    settings: EvalSettings = EvalSettings(),  # noqa: B008
    limit: int | None = None,
    share: DistributedShard | None = None,
) -> Evaluation | None:
    """The numbers of a task on a folder; None in all processes but the main one, which must all call this.

    limit: images to look at, the first ones.
    """
    if problem := task.unsupported_reason(model):
        raise CannotDoError(f"the model cannot do the task {task.name!r}: {problem}. Choose another task or model.")
    data, share = _data(folder), share or DistributedShard.of_this_process()
    images = task.read(data)[:limit]
    answered = answers_of(model, processor, task, images, generation=generation, share=share)
    records = share.gathered({i: task.record(images[i], answers) for i, answers in answered})
    forced: dict[str, Estimate] = {}
    if limit is None:
        forced = task.teacher_forced(
            model, processor, data, share, batch_size=generation.batch_size, progress=generation.progress
        )
    if not share.is_main:
        return None
    return _evaluation(task, images, records, settings, forced)


def evaluate_baseline(
    baseline: Baseline,
    task: Task,
    folder: str | Path | DataFolder,
    *,
    settings: EvalSettings = EvalSettings(),  # noqa: B008
    limit: int | None = None,
) -> Evaluation:
    """The same numbers of what a baseline answers in a model's place."""
    images = task.read(_data(folder))[:limit]
    answered = zip(images, task.guesses(images, baseline), strict=True)
    return _evaluation(task, images, [task.record(image, answers) for image, answers in answered], settings, {})


def _data(folder: str | Path | DataFolder) -> DataFolder:
    return folder if isinstance(folder, DataFolder) else DataFolder(Path(folder))


def _evaluation(
    task: Task, images: Sequence[Any], records: Sequence[Any], settings: EvalSettings, forced: Mapping[str, Estimate]
) -> Evaluation:
    scores = task.score(images, records, settings)
    metrics = {name: vars(estimate) for name, estimate in {**scores.metrics, **forced}.items()}
    result = {"scenes": len(images), **scores.counts, "metrics": metrics}
    if scores.notes:
        result["notes"] = list(scores.notes)
    if scores.curves:
        result["curves"] = scores.curves
    return Evaluation(result, [task.to_record(*pair) for pair in zip(images, records, strict=True)])


# --- during training --------------------------------------------------------------------------------------------


def validate(
    model: nn.Module, processor: Any, tasks: Sequence[str] | None = None, *, scenes: int | None = None
) -> dict[str, float]:
    """A quick look during training, for a recipe's `evaluate: pixelllm_hf.evaluation.runner:validate`.

    On a series of scenes that is neither trained nor reported on. tasks: by default all that the model has the heads
    for; others are a `CannotDoError`. In a run of several processes all of them must call this; they share the work
    and get the same numbers.
    """
    share, data = DistributedShard.of_this_process(), DataFolder(_validation_folder(scenes or VALIDATION_SCENES))
    able = [name for name, task in TASKS.items() if task.unsupported_reason(model) is None]
    wanted = [name for name in able if TASKS[name].watched] if tasks is None else list(tasks)
    if unable := [name for name in wanted if name not in able]:
        raise CannotDoError(f"this model can be validated on {', '.join(able)}, but not on {', '.join(unable)}.")
    covered = {other for name in wanted for other in TASKS[name].also_scores}
    numbers: dict[str, float] = {}
    with evaluating(model):
        for name in [name for name in wanted if name not in covered]:
            task, images = TASKS[name], _validation_images(name, data)
            answered = answers_of(model, processor, task, images, share=share)
            records = share.gathered({i: task.record(images[i], answers) for i, answers in answered})
            for scored in (task, *(TASKS[other] for other in task.also_scores if other in wanted)):
                metrics = scored.score(images, records, QUICK).metrics
                numbers |= {shown: metrics[m].value for m, shown in scored.logged_metrics.items() if m in metrics}
    return numbers


@lru_cache(maxsize=1)
def _validation_folder(scenes: int) -> Path:
    """Composed once a process; the folder goes away with the process."""
    _validation_images.cache_clear()
    _kept.append(tempfile.TemporaryDirectory(prefix="pixelllm-validation-"))
    return write_scenes(Path(_kept[-1].name) / "scenes", scenes, VALIDATION_SEED, split="test")


_kept: list[tempfile.TemporaryDirectory] = []


@cache
def _validation_images(name: str, data: DataFolder) -> list[Any]:
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
