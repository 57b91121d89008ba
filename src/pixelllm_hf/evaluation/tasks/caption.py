"""Captions of whole images against what people say of them; where the objects are known, also whether they are named.

Object precision, recall and F1 are those of `evaluation.trace`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from pixelllm_hf.evaluation.baselines import Baseline
from pixelllm_hf.evaluation.bootstrap import Estimate
from pixelllm_hf.evaluation.caption_estimates import caption_estimates
from pixelllm_hf.evaluation.images import CaptionedImage
from pixelllm_hf.evaluation.object_names import ObjectNames, words_of
from pixelllm_hf.evaluation.row_images import read_captioned, read_phrased
from pixelllm_hf.evaluation.scene_folder import DataFolder
from pixelllm_hf.evaluation.tasks.task import QUICK, EvalSettings, Scores, Task
from pixelllm_hf.evaluation.trace import SceneScore, naming_metrics
from pixelllm_hf.processing.grounded_results import GroundedCaption


@dataclass(frozen=True, eq=False)
class NamedImage(CaptionedImage):
    """`vocabulary` is None if unknown."""

    vocabulary: ObjectNames | None


class CaptionTask(Task):
    """One short caption an image."""

    name = "caption"
    logged_metrics = {"CIDEr": "caption_cider", "object_f1": "caption_object_f1"}

    def read(self, data: DataFolder) -> list[NamedImage]:
        return [NamedImage(**vars(image), vocabulary=data.object_names) for image in read_captioned(data)]

    def record(self, image: NamedImage, answers: Sequence[GroundedCaption]) -> dict[str, Any]:
        return {"caption": answers[0].text, "score": answers[0].score}

    def guesses(self, images: Sequence[NamedImage], baseline: Baseline) -> Iterable[list[GroundedCaption]]:
        said = {image.image_id: image.captions for image in images}
        for image in images:
            yield [GroundedCaption(baseline.caption(image, said), (), (1, 1))]

    def score(self, images: Sequence[NamedImage], records: Sequence[dict[str, Any]], settings: EvalSettings) -> Scores:
        said = [record["caption"] for record in records]
        metrics, notes = caption_estimates(
            said,
            [image.captions for image in images],
            range(len(said)),
            with_meteor=settings is not QUICK,
            meteor_variant=settings.meteor,
            resamples=settings.resamples,
        )
        return Scores(metrics | _naming(images, said, settings.resamples), {"captions": len(said)}, notes)


class PhrasedCaptionTask(CaptionTask):
    """The same on photographs whose captions have phrases; nothing else is known of their objects."""

    def read(self, data: DataFolder) -> list[NamedImage]:
        return [
            NamedImage(p.image_id, p.file, tuple(caption.text for caption in p.captions), None, None)
            for p in read_phrased(data)
        ]


def _naming(images: Sequence[NamedImage], said: Sequence[str], resamples: int) -> dict[str, Estimate]:
    scores = []
    for image, text in zip(images, said, strict=True):
        if image.vocabulary is not None and image.names is not None:
            found = frozenset(m.name for m in image.vocabulary.mentions(words_of(text)))
            scores.append(SceneScore(found, image.names & image.vocabulary.names.keys(), ()))
    return naming_metrics(scores, resamples=resamples) if scores else {}
