"""The answers that score best and worst among the first images of a split: what a page of results shows, by a rule.

Each image has one number: the CIDEr of its caption, the mean IoU of its masks, the average precision of its objects.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pixelllm_hf.evaluation.cider import cider
from pixelllm_hf.evaluation.ptb_tokenizer import tokenize_samples
from pixelllm_hf.evaluation.runner import GenerationSettings, answers_of
from pixelllm_hf.evaluation.scene_folder import DataFolder
from pixelllm_hf.evaluation.tasks import task_for
from pixelllm_hf.evaluation.tasks.task import QUICK, Task
from pixelllm_hf.processing.grounded_results import GroundedCaption

Scorer = Callable[[Task, Sequence[Any], Sequence[Any]], list[float]]


@dataclass(frozen=True)
class ScoredImage:
    """An image, what the model answers about it, what is true, and the score of that."""

    image: Any
    answers: tuple[GroundedCaption, ...]
    truth: str
    score: float


def scored_images(
    model: Any, processor: Any, task_name: str, data: DataFolder, *, images: int, batch_size: int = 8
) -> list[ScoredImage]:
    """The first `images` of the data, in its order; those with nothing to score are left out."""
    task = task_for(task_name, data)
    chosen = task.read(data)[:images]
    generation = GenerationSettings(batch_size=batch_size)
    answers = dict(answers_of(model, processor, task, chosen, generation=generation))
    records = [task.record(image, answers[i]) for i, image in enumerate(chosen)]
    scores = _SCORERS[task_name](task, chosen, records)
    return [
        ScoredImage(image, tuple(answers[i]), _TRUTHS[task_name](image), score)
        for i, (image, score) in enumerate(zip(chosen, scores, strict=True))
        if math.isfinite(score)
    ]


def best_and_worst(scored: Sequence[ScoredImage], count: int) -> tuple[list[ScoredImage], list[ScoredImage]]:
    """The `count` best and worst ones, the best and the worst first; ties go to the earlier image, none is in both."""
    order = sorted(range(len(scored)), key=lambda i: (-scored[i].score, i))
    count = min(count, len(order) // 2)
    worst = sorted(order[len(order) - count :], key=lambda i: (scored[i].score, i))
    return [scored[i] for i in order[:count]], [scored[i] for i in worst]


def _ciders(task: Task, images: Sequence[Any], records: Sequence[Any]) -> list[float]:
    captions, references, _ = tokenize_samples([r["caption"] for r in records], [list(i.captions) for i in images])
    return cider(captions, references).samples.tolist()


def _alone(metric: str) -> Scorer:
    """The task's own metric, of each image by itself."""

    def score(task: Task, images: Sequence[Any], records: Sequence[Any]) -> list[float]:
        pairs = zip(images, records, strict=True)
        return [task.score([image], [record], QUICK).metrics[metric].value for image, record in pairs]

    return score


_SCORERS: dict[str, Scorer] = {"caption": _ciders, "segment": _alone("seg_gIoU"), "dense": _alone("AP50")}
_TRUTHS: dict[str, Callable[[Any], str]] = {
    "caption": lambda image: image.captions[0],
    "segment": lambda image: ", ".join(expression.text for expression in image.expressions),
    "dense": lambda image: ", ".join(sorted(thing.name for thing in image.objects)),
}
METRICS = {"caption": "CIDEr", "segment": "mean mask IoU", "dense": "AP50"}
TASKS = tuple(METRICS)
