"""Answers that point at objects: are the masks right, and are there as many as there should be?

MUSE, ReasonSeg and multi-referring, as PixelLM (arXiv 2312.02228) is measured on them, but on what `generate` writes:
the released code gives the model the answer of the latter two. The meters are in `evaluation.target_iou`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from pixelllm_hf.evaluation.bootstrap import Estimate, ratio_of_sums
from pixelllm_hf.evaluation.questions import AskedImage, AskedQuestion, read_questions
from pixelllm_hf.evaluation.scene_folder import DataFolder
from pixelllm_hf.evaluation.target_iou import FEW, intersection_and_union, iou_of, question_counts
from pixelllm_hf.evaluation.tasks.task import EvalSettings, Scores, Task
from pixelllm_hf.processing.canvas_transform import CanvasTransform
from pixelllm_hf.processing.grounded_results import GroundedCaption
from pixelllm_hf.processing.mask_resizing import logits_on_image
from pixelllm_hf.processing.tasks import TaskSpec, task_spec
from pixelllm_hf.processing.written_targets import WrittenTargets


@dataclass(frozen=True, eq=False)
class PointingAnswer:
    """An answer with the logits (K,h,w) of its targets over the canvas."""

    caption: GroundedCaption
    logits: Tensor
    transform: CanvasTransform

    def on_image(self, size_hw: tuple[int, int]) -> Tensor:
        """(K,H,W) at the size that was annotated."""
        return logits_on_image(
            self.logits,
            canvas_size=self.transform.canvas,
            resized_size_hw=self.transform.resized_size_wh[::-1],
            image_size_hw=size_hw,
        )


class PointingTask(Task):
    """Questions with any number of targets."""

    note: ClassVar[str] = "targets are paired with the predicted ones of least cost (Hungarian matching)"

    @property
    def spec(self) -> TaskSpec:
        """Questions are asked."""
        return task_spec("reason")

    def read(self, data: DataFolder) -> list[AskedImage]:
        return read_questions(data, self.name)

    def ask(self, images: Sequence[AskedImage]) -> dict[str, Any]:
        return {"text": [[question.text for question in image.questions] for image in images]}

    def answers(self, processor: Any, output: Any, inputs: Mapping[str, Any]) -> list[list[Any]]:
        results = self.spec.results(processor, output, inputs)
        targets = WrittenTargets.of(output)
        assert targets is not None  # else there were no results
        sources = processor.prompt_sources(inputs, len(output.sequences), output)
        answers: list[list[Any]] = [[] for _ in results]
        for row, source in enumerate(sources):
            own = answers[source.image_index]
            logits = targets.logits[targets.of_row(row)].float().cpu()
            own.append(PointingAnswer(results[source.image_index][len(own)], logits, source.transform))
        return answers

    def record(self, image: AskedImage, answers: Sequence[Any]) -> dict[str, Any]:
        rows = []
        for question, answer in zip(image.questions, answers, strict=True):
            counts, raw = self.counts(answer.on_image(image.size_hw), question.masks(image.size_hw))
            rows.append(
                {
                    "question": question.text,
                    "answer": answer.caption.text,
                    "predicted": len(answer.logits),
                    "annotated": len(question.targets),
                    "counts": counts.long().tolist(),
                    "released_counts": raw.long().tolist(),
                }
            )
        return {"questions": rows}

    def counts(self, logits: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
        """Intersection and union (T,2) of every target, by the corrected meter and by the released one."""
        return question_counts(logits, masks), question_counts(logits, masks, released=True)

    def score(
        self, images: Sequence[AskedImage], records: Sequence[Mapping[str, Any]], settings: EvalSettings
    ) -> Scores:
        asked = [record["questions"] for record in records]
        metrics = _ious(asked, "", lambda question: True, settings)
        sizes = {"_few": lambda question: 0 < question["annotated"] <= FEW, "_many": lambda q: q["annotated"] > FEW}
        for suffix, belongs in sizes.items():
            metrics |= _ious(asked, suffix, belongs, settings)
        metrics["right_number"] = _share(asked, lambda q: True, settings)
        metrics["empty_accuracy"] = _share(asked, lambda q: q["annotated"] == 0, settings)
        if settings.released_meter:
            metrics |= _ious(asked, "_released", lambda question: True, settings, counts="released_counts")
        counts = {
            "questions": sum(map(len, asked)),
            "targets": sum(question["annotated"] for row in asked for question in row),
            "written_targets": sum(question["predicted"] for row in asked for question in row),
        }
        kept = {name: estimate for name, estimate in metrics.items() if estimate.count}
        return Scores(kept, counts, (self.note,))


class MuseTask(PointingTask):
    """MUSE, and the questions about composed scenes."""

    name = "muse"
    logged_metrics = {"gIoU": "muse_giou", "cIoU": "muse_ciou", "right_number": "muse_right_number"}


class MultiReferTask(PointingTask):
    """Multi-referring: the targets come in the order of the expressions, and are not paired anew."""

    name = "multirefer"
    watched = False
    note = "targets are compared in the order of the expressions; one too few or too many scores 0"

    def counts(self, logits: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
        found, beyond = logits[: len(masks)], logits[len(masks) :]
        missing = torch.full((len(masks) - len(found), *masks.shape[1:]), -1.0)
        paired = question_counts(torch.cat([found, missing]), masks, matched=True)
        return tuple(
            torch.cat([paired, question_counts(beyond, masks[:0], released=released)]) for released in (False, True)
        )  # type: ignore[return-value]


class ReasonSegTask(PointingTask):
    """ReasonSeg: the first question of an image, as released; all masks of the answer are one."""

    name = "reasonseg"
    watched = False
    note = "the masks of an answer are united, as the annotation is one mask; ignored pixels do not count"

    def read(self, data: DataFolder) -> list[AskedImage]:
        return [AskedImage(p.image_id, p.file, p.size_hw, p.questions[:1]) for p in super().read(data)]

    def counts(self, logits: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
        united = logits.amax(0) if len(logits) else torch.full(masks.shape[1:], -1.0)
        counts = intersection_and_union((united > 0).float(), masks[0].float())[None, :, 1]
        return counts, counts


def _ious(
    asked: Sequence[Sequence[Mapping[str, Any]]],
    suffix: str,
    belongs: Callable[[Mapping[str, Any]], bool],
    settings: EvalSettings,
    counts: str = "counts",
) -> dict[str, Estimate]:
    """gIoU and cIoU of the targets of the questions that belong, with intervals that draw images."""
    sums = np.zeros((len(asked), 4))  # of an image: IoUs, targets, intersections, unions
    for image, questions in zip(sums, asked, strict=True):
        chosen = [question for question in questions if belongs(question)]
        pairs = torch.tensor([pair for q in chosen for pair in q[counts]], dtype=torch.float64).reshape(-1, 2)
        image[:] = float(iou_of(pairs[:, 0], pairs[:, 1]).sum()), len(pairs), *pairs.sum(0).tolist()
        if counts != "counts":  # the released mean divides by the larger side of the whole image
            image[1] = max(sum(q["predicted"] for q in chosen), sum(q["annotated"] for q in chosen))
    giou = ratio_of_sums(sums[:, 0], sums[:, 1], resamples=settings.resamples)
    ciou = ratio_of_sums(sums[:, 2], sums[:, 3], resamples=settings.resamples)
    return {f"gIoU{suffix}": giou, f"cIoU{suffix}": Estimate(ciou.value, ciou.low, ciou.high, giou.count)}


def _share(
    asked: Sequence[Sequence[Mapping[str, Any]]], belongs: Callable[[Mapping[str, Any]], bool], settings: EvalSettings
) -> Estimate:
    """Of the questions that belong, those whose answer has the right number of targets."""
    chosen = [[question for question in questions if belongs(question)] for questions in asked]
    right = np.array([sum(q["predicted"] == q["annotated"] for q in questions) for questions in chosen])
    return ratio_of_sums(right, np.array([len(questions) for questions in chosen]), resamples=settings.resamples)


__all__ = ["AskedQuestion", "MultiReferTask", "MuseTask", "PointingAnswer", "PointingTask", "ReasonSegTask"]
