"""Trace: long captions of whole images whose object words are placed. The definitions are in `evaluation.trace`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from pixelllm_hf.data import GroundedCollator
from pixelllm_hf.evaluation.bootstrap import Estimate, ratio_of_sums
from pixelllm_hf.evaluation.images import EvaluationScene
from pixelllm_hf.evaluation.local_bipartite_matching import local_bipartite_matching
from pixelllm_hf.evaluation.object_names import ObjectNames
from pixelllm_hf.evaluation.point_l1 import point_l1
from pixelllm_hf.evaluation.pointing_game import PointingGame, pointing_metrics, score_pointing
from pixelllm_hf.evaluation.repetition import repetition_metrics
from pixelllm_hf.evaluation.row_images import read_scenes
from pixelllm_hf.evaluation.scene_folder import DataFolder
from pixelllm_hf.evaluation.sharing import DistributedShard
from pixelllm_hf.evaluation.tasks.task import EvalSettings, Scores, Task
from pixelllm_hf.evaluation.trace import SceneScore, score_scene, trace_metrics
from pixelllm_hf.processing.grounded_results import GroundedCaption
from pixelllm_hf.processing.tasks import TASK_SPECS
from pixelllm_hf.processing.word_spans import SpanReader


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
    pointing: PointingGame | None


class TraceTask(Task):
    """`generate` output on scenes; with narratives also what the paper reads of given captions: `point_l1` and LBM."""

    name = "trace"
    logged_metrics = {
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

    def record(self, image: TracedScene, answers: Sequence[GroundedCaption]) -> TraceRecord:
        caption, names = answers[0], image.vocabulary
        pointing = score_pointing(caption, image.boxes, names) if image.has_other_names else None
        return TraceRecord(caption, score_scene(caption, image, names), pointing)

    def teacher_forced(
        self, model: Any, processor: Any, data: DataFolder, share: DistributedShard, *, batch_size: int, progress: bool
    ) -> dict[str, Estimate]:
        read = read_given_narratives(model, processor, data, share=share, batch_size=batch_size, progress=progress)
        if read is None:
            return {}
        return {"point_l1_teacher_forced": narratives_point_l1(read)} | narratives_matching(read)

    def score(self, images: Sequence[TracedScene], records: Sequence[TraceRecord], settings: EvalSettings) -> Scores:
        metrics = trace_metrics([record.score for record in records], resamples=settings.resamples)
        if pointing := [record.pointing for record in records if record.pointing is not None]:
            metrics |= pointing_metrics(pointing, resamples=settings.resamples)
        metrics |= repetition_metrics([record.caption.text for record in records], resamples=settings.resamples)
        return Scores(metrics, {"words": sum(len(record.caption.words) for record in records)})

    def to_record(self, image: TracedScene, record: TraceRecord) -> dict[str, Any]:  # type: ignore[override]
        score = record.score
        return {
            "image_id": image.image_id,
            "present": sorted(score.present),
            "found": sorted(score.found),
            "words": [vars(mention) for mention in score.mentions],
            "caption": record.caption.to_dict(),
        }


@dataclass(frozen=True)
class GivenNarrative:
    """A narrative of an image as the model reads it, in shares of the image's sides.

    points and targets: (T,P,2) and (T,G,2) of its tokens; NaN targets where a token has no location. words: the tokens
    of each word.
    """

    image_id: str
    points: np.ndarray
    targets: np.ndarray
    words: tuple[tuple[int, ...], ...]


def read_given_narratives(
    model: Any,
    processor: Any,
    data: DataFolder,
    *,
    share: DistributedShard | None = None,
    batch_size: int = 25,
    progress: bool = False,
) -> list[GivenNarrative] | None:
    """The written narratives, each read in one pass. None if the folder has none."""
    rows, share = data.narratives(), share or DistributedShard()
    if rows is None:
        return None
    contexts = {"trace": [TASK_SPECS["trace"].default]}  # one wording, not one drawn for each row
    collate = GroundedCollator.for_processor(processor, prompt_choice="first", contexts=contexts)
    reader = SpanReader(processor.tokenizer)
    narratives: dict[int, GivenNarrative] = {}
    for start in tqdm(share.starts(len(rows), batch_size), unit="batch", disable=not progress):
        chosen = [rows[i] for i in range(start, min(start + batch_size, len(rows)))]
        batch = {name: value.to(model.device) for name, value in collate(chosen).items()}
        with torch.inference_mode():
            points = model(**batch).coordinates[:, 1:]  # entry 0 belongs to BOS
        ids = batch["labels"].masked_fill(batch["labels"] < 0, processor.tokenizer.pad_token_id).tolist()
        for i, row in enumerate(chosen):
            words = tuple(word.tokens for word in reader.read(ids[i]).words())
            places = points[i].float().cpu().numpy(), batch["point_labels"][i].cpu().numpy()
            narratives[start + i] = GivenNarrative(row["image_id"], *places, words)
    return share.gathered(narratives)


def narratives_point_l1(narratives: Sequence[GivenNarrative]) -> Estimate:
    """The reference's `point_l1`: mean over images."""
    values = []
    for _, group in groupby(narratives, key=lambda narrative: narrative.image_id):
        # In units of the image's sides already, so its size is 1 x 1; NaN marks tokens without a location.
        values.append(_pooled_point_l1([(one.points, np.nan_to_num(one.targets)) for one in group]))
    return ratio_of_sums(np.array(values), np.ones(len(values)))


def narratives_matching(narratives: Sequence[GivenNarrative]) -> dict[str, Estimate]:
    """LBM of the traces of given narratives, as in controlled trace generation: a mean over narratives, images redrawn.

    A row of a trace is a word: the box around the points of its tokens. Words without a location are not in the
    annotated trace, but in the predicted one.
    """
    predicted = [np.array([_around(one.points, word) for word in one.words]).reshape(-1, 4) for one in narratives]
    annotated = [np.array([_with_area(_around(one.targets, word)) for word in one.words]) for one in narratives]
    image = np.unique([one.image_id for one in narratives], return_inverse=True)[1]
    estimates = {}
    for window in (0, 1):
        samples = local_bipartite_matching(predicted, annotated, window=window).samples
        counted = ~np.isnan(samples)
        sums, numbers = np.bincount(image, np.nan_to_num(samples)), np.bincount(image, counted)
        estimates[f"LBM_k{window}"] = ratio_of_sums(sums, numbers)
    return estimates


def _around(points: np.ndarray, tokens: Sequence[int]) -> np.ndarray:
    """The box (4,) xyxy around the finite points of these tokens, within the image; without any the whole image."""
    own = points[list(tokens)].reshape(-1, 2)
    own = np.clip(own[np.isfinite(own).all(-1)], 0, 1)
    return np.concatenate([own.min(0), own.max(0)]) if len(own) else np.array([0.0, 0.0, 1.0, 1.0])


def _with_area(box: np.ndarray) -> np.ndarray:
    return np.append(box, (box[2] - box[0]) * (box[3] - box[1]))


def _pooled_point_l1(captions: Sequence[tuple[np.ndarray, np.ndarray]]) -> float:
    """Captions of one image may differ in length; tokens are pooled over them."""
    predictions = np.concatenate([points for points, _ in captions])[None]
    targets = np.concatenate([places for _, places in captions])[None]
    return point_l1(predictions, targets, np.ones(targets.shape[:2], bool), (1.0, 1.0))
