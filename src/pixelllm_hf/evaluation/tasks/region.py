"""Location-conditioned captioning: what is in this box?

Exact match: the same words as the phrase of the box, in lower case and without punctuation. Object name right: of the
names of the folder's categories the caption holds just those that the phrase holds. Where the names that the model was
trained on are given, they take the place of the categories, and phrases without one are not asked about.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pixelllm_hf.evaluation.bootstrap import ratio_of_sums
from pixelllm_hf.evaluation.caption_estimates import caption_estimates
from pixelllm_hf.evaluation.images import DescribedImage, EvaluationDataError, Region
from pixelllm_hf.evaluation.object_names import ObjectNames, words_of
from pixelllm_hf.evaluation.row_images import read_described
from pixelllm_hf.evaluation.scene_folder import DataFolder
from pixelllm_hf.evaluation.tasks.task import QUICK, EvalSettings, Scores, Task
from pixelllm_hf.processing.canvas_transform import xywh_to_xyxy
from pixelllm_hf.processing.grounded_results import GroundedCaption


@dataclass(frozen=True, eq=False)
class AskedImage(DescribedImage):
    """`regions` are those that can be asked about; `skipped` counts the others; `vocabulary` is None if unknown."""

    skipped: int
    vocabulary: ObjectNames | None


class RegionTask(Task):
    """All boxes of an image in one call."""

    name = "region"
    logged_metrics = {"exact_match": "region_exact", "object_name": "region_name"}

    def read(self, data: DataFolder) -> list[AskedImage]:
        names, asked = data.object_names, []
        for image in read_described(data):
            kept = tuple(region for region in image.regions if _can_be_asked(region, image.size_wh))
            if data.trained is not None and names is not None:
                kept = tuple(region for region in kept if names.mentions(words_of(region.phrase)))
            if kept:
                known = {**vars(image), "regions": kept, "skipped": len(image.regions) - len(kept)}
                asked.append(AskedImage(**known, vocabulary=names))
        if not asked:
            raise EvaluationDataError(
                f"{data.folder} has no region that can be asked about: inside an image and, where trained names are "
                "given, with one of them in its phrase."
            )
        return asked

    def ask(self, images: Sequence[AskedImage]) -> dict[str, Any]:
        return {"boxes": [[xywh_to_xyxy(region.box).tolist() for region in image.regions] for image in images]}

    def record(self, image: AskedImage, answers: Sequence[GroundedCaption]) -> dict[str, Any]:
        rows = zip(image.regions, answers, strict=True)
        return {
            "answers": [{"bbox": list(r.box), "phrase": r.phrase, "caption": a.text, "score": a.score} for r, a in rows]
        }

    def score(self, images: Sequence[AskedImage], records: Sequence[dict[str, Any]], settings: EvalSettings) -> Scores:
        pairs = [[(a["caption"], a["phrase"]) for a in record["answers"]] for record in records]
        counted = np.array([len(row) for row in pairs])
        exact = np.array([sum(_words(said) == _words(phrase) for said, phrase in row) for row in pairs])
        metrics = {"exact_match": ratio_of_sums(exact, counted, resamples=settings.resamples)}
        names = images[0].vocabulary
        if names is not None:
            right, named = (
                np.array(column) for column in zip(*(_names_right(names, row) for row in pairs), strict=True)
            )
            metrics["object_name"] = ratio_of_sums(right, named, resamples=settings.resamples)
        notes: tuple[str, ...] = ()
        if settings is not QUICK:
            captions, notes = caption_estimates(
                [said for row in pairs for said, _ in row],
                [[phrase] for row in pairs for _, phrase in row],
                [i for i, row in enumerate(pairs) for _ in row],
                meteor_variant=settings.meteor,
                resamples=settings.resamples,
            )
            metrics |= captions
        counts = {"regions": int(counted.sum()), "skipped_regions": sum(image.skipped for image in images)}
        return Scores(metrics, counts, (*notes, "exact match: same words, case and punctuation aside"))


def _can_be_asked(region: Region, size_wh: tuple[int, int]) -> bool:
    """Something of it is inside the image."""
    x, y, width, height = region.box
    inside = x < size_wh[0] and y < size_wh[1] and x + width > 0 and y + height > 0
    return width > 0 and height > 0 and inside


def _words(text: str) -> list[str]:
    return words_of(text.lower())


def _names_right(names: ObjectNames, pairs: Sequence[tuple[str, str]]) -> tuple[int, int]:
    """How many captions have the names of their phrase, of how many phrases that have any."""
    sets = [tuple({m.name for m in names.mentions(words_of(text))} for text in pair) for pair in pairs]
    named = [(said, meant) for said, meant in sets if meant]
    return sum(said == meant for said, meant in named), len(named)
