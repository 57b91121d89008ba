"""Trace: long captions of whole pictures whose object words are placed. The definitions are in `evaluation.trace`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from pixelllm_hf.data import GroundedCollator
from pixelllm_hf.evaluation.annotations import read_narratives, read_scenes
from pixelllm_hf.evaluation.bootstrap import Estimate, ratio_of_sums
from pixelllm_hf.evaluation.object_names import ObjectNames
from pixelllm_hf.evaluation.pictures import EvaluationScene
from pixelllm_hf.evaluation.point_l1 import point_l1
from pixelllm_hf.evaluation.scene_folder import DataFolder
from pixelllm_hf.evaluation.sharing import Share
from pixelllm_hf.evaluation.tasks.task import Scores, Task, Thoroughness
from pixelllm_hf.evaluation.trace import SceneScore, score_scene, trace_metrics
from pixelllm_hf.evaluation.unnamed_places import Pointing, pointing_metrics, score_pointing
from pixelllm_hf.processing.grounded_results import GroundedCaption
from pixelllm_hf.processing.tasks import TASK_SPECS


@dataclass(frozen=True, eq=False)
class TracedScene(EvaluationScene):
    """A scene, the names that captions may use, and whether it holds objects that none of them fits."""

    vocabulary: ObjectNames
    has_other_names: bool


@dataclass(frozen=True)
class TraceRecord:
    """One caption and how it scores; `pointing` where objects may have names that the model never learnt."""

    caption: GroundedCaption
    score: SceneScore
    pointing: Pointing | None


class TraceTask(Task):
    """`generate` output on scenes; with narratives also the reference's teacher-forced `point_l1`."""

    name = "trace"
    looks = {
        name: name
        for name in (
            "object_f1",
            "object_precision",
            "object_recall",
            "point_in_box",
            "point_in_box_single",
            "center_error_percent",
        )
    }

    def read(self, data: DataFolder) -> list[TracedScene]:
        scenes, names = read_scenes(data), data.object_names
        assert names is not None, "scenes have categories"
        return [TracedScene(**vars(s), vocabulary=names, has_other_names=data.trained is not None) for s in scenes]

    def record(self, picture: TracedScene, answers: Sequence[GroundedCaption]) -> TraceRecord:
        caption, names = answers[0], picture.vocabulary
        pointing = score_pointing(caption, picture.boxes, names) if picture.has_other_names else None
        return TraceRecord(caption, score_scene(caption, picture, names), pointing)

    def forced(
        self, model: Any, processor: Any, data: DataFolder, share: Share, *, batch_size: int, progress: bool
    ) -> dict[str, Estimate]:
        estimate = teacher_forced_point_l1(
            model, processor, data, share=share, batch_size=batch_size, progress=progress
        )
        return {} if estimate is None else {"point_l1_teacher_forced": estimate}

    def score(self, pictures: Sequence[TracedScene], records: Sequence[TraceRecord], how: Thoroughness) -> Scores:
        metrics = trace_metrics([record.score for record in records], resamples=how.resamples)
        if pointing := [record.pointing for record in records if record.pointing is not None]:
            metrics |= pointing_metrics(pointing, resamples=how.resamples)
        return Scores(metrics, {"words": sum(len(record.caption.words) for record in records)})

    def listed(self, picture: TracedScene, record: TraceRecord) -> dict[str, Any]:  # type: ignore[override]
        score = record.score
        return {
            "image_id": picture.image_id,
            "present": sorted(score.present),
            "found": sorted(score.found),
            "words": [vars(mention) for mention in score.mentions],
            "caption": record.caption.to_dict(),
        }


def teacher_forced_point_l1(
    model: Any,
    processor: Any,
    data: DataFolder,
    *,
    share: Share | None = None,
    batch_size: int = 25,
    progress: bool = False,
) -> Estimate | None:
    """The reference's `point_l1`: mean over pictures, given the written narratives. None without narratives."""
    rows, share = read_narratives(data), share or Share()
    if rows is None:
        return None
    contexts = {"trace": [TASK_SPECS["trace"].default]}  # one wording, not one drawn for each row
    collate = GroundedCollator.for_processor(processor, prompt_choice="first", contexts=contexts)
    captions: dict[int, tuple[str, np.ndarray, np.ndarray]] = {}
    for start in tqdm(share.starts(len(rows), batch_size), unit="batch", disable=not progress):
        chosen = [rows[i] for i in range(start, min(start + batch_size, len(rows)))]
        batch = {name: value.to(model.device) for name, value in collate(chosen).items()}
        with torch.inference_mode():
            points = model(**batch).coordinates[:, 1:]  # entry 0 belongs to BOS
        targets = batch["point_labels"]
        for i, row in enumerate(chosen):
            captions[start + i] = row["image_id"], points[i].float().cpu().numpy(), targets[i].cpu().numpy()
    values = []
    for _, group in groupby(share.gathered(captions), key=lambda caption: caption[0]):
        # In units of the picture's sides already, so its size is 1 x 1; NaN marks tokens without a place.
        values.append(_pooled_point_l1([(p, np.nan_to_num(t)) for _, p, t in group]))
    return ratio_of_sums(np.array(values), np.ones(len(values)))


def _pooled_point_l1(captions: Sequence[tuple[np.ndarray, np.ndarray]]) -> float:
    """Captions of one picture may differ in length; tokens are pooled over them."""
    predictions = np.concatenate([points for points, _ in captions])[None]
    targets = np.concatenate([places for _, places in captions])[None]
    return point_l1(predictions, targets, np.ones(targets.shape[:2], bool), (1.0, 1.0))
