"""Captions of whole pictures against what people say of them; where the objects are known, also whether they are named.

Object precision, recall and F1 are those of `evaluation.trace`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from pixelllm_hf.evaluation.baselines import Baseline
from pixelllm_hf.evaluation.bootstrap import Estimate
from pixelllm_hf.evaluation.caption_estimates import caption_estimates
from pixelllm_hf.evaluation.object_names import ObjectNames, words_of
from pixelllm_hf.evaluation.pictures import CaptionedPicture
from pixelllm_hf.evaluation.row_pictures import read_captioned, read_phrased
from pixelllm_hf.evaluation.scene_folder import DataFolder
from pixelllm_hf.evaluation.tasks.task import QUICK, Scores, Task, Thoroughness
from pixelllm_hf.evaluation.trace import SceneScore, naming_metrics
from pixelllm_hf.processing.grounded_results import GroundedCaption


@dataclass(frozen=True, eq=False)
class NamedPicture(CaptionedPicture):
    """`vocabulary` is None if unknown."""

    vocabulary: ObjectNames | None


class CaptionTask(Task):
    """One short caption a picture."""

    name = "caption"
    looks = {"CIDEr": "caption_cider", "object_f1": "caption_object_f1"}

    def read(self, data: DataFolder) -> list[NamedPicture]:
        return [NamedPicture(**vars(picture), vocabulary=data.object_names) for picture in read_captioned(data)]

    def record(self, picture: NamedPicture, answers: Sequence[GroundedCaption]) -> dict[str, Any]:
        return {"caption": answers[0].text, "score": answers[0].score}

    def guesses(self, pictures: Sequence[NamedPicture], baseline: Baseline) -> Iterable[list[GroundedCaption]]:
        said = {picture.image_id: picture.captions for picture in pictures}
        for picture in pictures:
            yield [GroundedCaption(baseline.caption(picture, said), (), (1, 1))]

    def score(self, pictures: Sequence[NamedPicture], records: Sequence[dict[str, Any]], how: Thoroughness) -> Scores:
        said = [record["caption"] for record in records]
        metrics, notes = caption_estimates(
            said,
            [picture.captions for picture in pictures],
            range(len(said)),
            with_meteor=how is not QUICK,
            meteor_variant=how.meteor,
            resamples=how.resamples,
        )
        return Scores(metrics | _naming(pictures, said, how.resamples), {"captions": len(said)}, notes)


class PhrasedCaptionTask(CaptionTask):
    """The same on photographs whose captions have phrases; nothing else is known of their objects."""

    def read(self, data: DataFolder) -> list[NamedPicture]:
        return [
            NamedPicture(p.image_id, p.file, tuple(caption.text for caption in p.captions), None, None)
            for p in read_phrased(data)
        ]


def _naming(pictures: Sequence[NamedPicture], said: Sequence[str], resamples: int) -> dict[str, Estimate]:
    scores = []
    for picture, text in zip(pictures, said, strict=True):
        if picture.vocabulary is not None and picture.names is not None:
            found = frozenset(m.name for m in picture.vocabulary.mentions(words_of(text)))
            scores.append(SceneScore(found, picture.names & picture.vocabulary.names.keys(), ()))
    return naming_metrics(scores, resamples=resamples) if scores else {}
