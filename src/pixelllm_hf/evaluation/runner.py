"""Run a model over scenes and score what it says."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

import pixelllm_hf
from pixelllm_hf.data import GroundedCollator, read_localized_narratives
from pixelllm_hf.evaluation.bootstrap import Estimate, ratio_of_sums
from pixelllm_hf.evaluation.object_names import ObjectNames
from pixelllm_hf.evaluation.point_l1 import point_l1
from pixelllm_hf.evaluation.scene_folder import (
    NARRATIVES,
    VALIDATION_SEED,
    EvaluationScene,
    composed_folder,
    read_scenes,
)
from pixelllm_hf.evaluation.trace import SceneScore, score_scene, trace_metrics
from pixelllm_hf.processing.grounded_results import GroundedCaption
from pixelllm_hf.processing.task_prompts import TASK_PROMPTS

VALIDATION_SCENES = 64


def caption_scenes(
    model: Any,
    processor: Any,
    scenes: Sequence[EvaluationScene],
    *,
    batch_size: int = 25,
    max_new_tokens: int = 96,
    num_beams: int = 1,
    progress: bool = False,
) -> Iterator[GroundedCaption]:
    """One caption for each whole picture, in order."""
    starts = range(0, len(scenes), batch_size)
    for start in tqdm(starts, unit="batch", disable=not progress):
        images = [scene.image for scene in scenes[start : start + batch_size]]
        inputs = processor(images=images, task="trace", return_tensors="pt")
        with torch.inference_mode():
            output = model.generate(
                **{name: value.to(model.device) for name, value in inputs.items()},
                max_new_tokens=max_new_tokens,
                num_beams=num_beams,
            )
        for results in processor.post_process_grounded_generation(output, inputs):
            yield results[0]


def score_captions(
    captions: Iterator[GroundedCaption], scenes: Sequence[EvaluationScene], names: ObjectNames
) -> list[SceneScore]:
    """Scores in the order of the scenes."""
    return [score_scene(caption, scene, names) for caption, scene in zip(captions, scenes, strict=True)]


def teacher_forced_point_l1(
    model: Any, processor: Any, folder: str | Path, *, batch_size: int = 25, progress: bool = False
) -> Estimate | None:
    """The reference's `point_l1`: mean over pictures, given the written narratives. None without narratives."""
    folder = Path(folder)
    if not (folder / NARRATIVES).is_file():
        return None
    rows = read_localized_narratives(folder / NARRATIVES, folder / "images")
    contexts = {"trace": [TASK_PROMPTS["trace"].default]}  # one wording, not one drawn for each row
    collate = GroundedCollator.for_processor(processor, prompt_choice="first", contexts=contexts)
    captions: list[tuple[str, np.ndarray, np.ndarray]] = []
    for start in tqdm(range(0, len(rows), batch_size), unit="batch", disable=not progress):
        chosen = [rows[i] for i in range(start, min(start + batch_size, len(rows)))]
        batch = {name: value.to(model.device) for name, value in collate(chosen).items()}
        with torch.inference_mode():
            points = model(**batch).coordinates[:, 1:]  # entry 0 belongs to BOS
        targets = batch["point_labels"]
        captions += [
            (row["image_id"], points[i].float().cpu().numpy(), targets[i].cpu().numpy()) for i, row in enumerate(chosen)
        ]
    values = []
    for _, group in groupby(captions, key=lambda caption: caption[0]):
        # In units of the picture's sides already, so its size is 1 x 1; NaN marks tokens without a place.
        values.append(_pooled_point_l1([(p, np.nan_to_num(t)) for _, p, t in group]))
    return ratio_of_sums(np.array(values), np.ones(len(values)))


def _pooled_point_l1(captions: Sequence[tuple[np.ndarray, np.ndarray]]) -> float:
    """Captions of one picture may differ in length; tokens are pooled over them."""
    predictions = np.concatenate([points for points, _ in captions])[None]
    targets = np.concatenate([places for _, places in captions])[None]
    return point_l1(predictions, targets, np.ones(targets.shape[:2], bool), (1.0, 1.0))


def evaluate_trace(
    model: Any,
    processor: Any,
    folder: str | Path,
    *,
    batch_size: int = 25,
    max_new_tokens: int = 96,
    num_beams: int = 1,
    limit: int | None = None,
    progress: bool = False,
    on_caption: Callable[[EvaluationScene, GroundedCaption, SceneScore], None] | None = None,
) -> dict[str, Any]:
    """The numbers of the trace task on a folder of scenes: {"scenes", "words", "metrics"}."""
    scenes, names = read_scenes(folder)
    scenes = scenes[:limit]
    captions = list(
        caption_scenes(
            model,
            processor,
            scenes,
            batch_size=batch_size,
            max_new_tokens=max_new_tokens,
            num_beams=num_beams,
            progress=progress,
        )
    )
    scores = score_captions(iter(captions), scenes, names)
    if on_caption is not None:
        for scene, caption, score in zip(scenes, captions, scores, strict=True):
            on_caption(scene, caption, score)
    metrics = trace_metrics(scores)
    forced = None
    if limit is None:
        forced = teacher_forced_point_l1(model, processor, folder, batch_size=batch_size, progress=progress)
    if forced is not None:
        metrics["point_l1_teacher_forced"] = forced
    return {
        "scenes": len(scenes),
        "words": sum(len(caption.words) for caption in captions),
        "metrics": {name: vars(estimate) for name, estimate in metrics.items()},
    }


def validate(model: nn.Module, processor: Any) -> dict[str, float]:
    """A quick look during training, for a recipe's `evaluate: pixelllm_hf.evaluation.runner:validate`.

    On a series of scenes that is neither trained nor reported on.
    """
    scenes, names = _validation_scenes()
    with evaluating(model):
        scores = score_captions(caption_scenes(model, processor, scenes), scenes, names)
    return {name: estimate.value for name, estimate in trace_metrics(scores).items()}


@lru_cache(maxsize=1)
def _validation_scenes() -> tuple[list[EvaluationScene], ObjectNames]:
    with composed_folder(VALIDATION_SCENES, VALIDATION_SEED) as folder:
        scenes, names = read_scenes(folder)
        for scene in scenes:
            scene.image.load()  # the folder goes away
    return scenes, names


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation behaviour inside, what it was before outside."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def weights_digest(folder: str | Path) -> str | None:
    """SHA-256 over the weight files of a local model folder: which model a number belongs to. None for hub ids."""
    files = sorted(Path(folder).glob("*.safetensors"))
    if not files:
        return None
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()


def versions() -> dict[str, str]:
    """What the numbers were computed with."""
    import transformers

    return {
        "pixelllm_hf": pixelllm_hf.__version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
    }
