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
from pixelllm_hf.evaluation.object_names import ObjectNames, words_of
from pixelllm_hf.evaluation.pictures import DescribedPicture, EvaluationDataError, Region
from pixelllm_hf.evaluation.row_pictures import read_described
from pixelllm_hf.evaluation.scene_folder import DataFolder
from pixelllm_hf.evaluation.tasks.task import QUICK, Scores, Task, Thoroughness
from pixelllm_hf.processing.canvas_transform import xywh_to_xyxy
from pixelllm_hf.processing.grounded_results import GroundedCaption


@dataclass(frozen=True, eq=False)
class AskedPicture(DescribedPicture):
    """`regions` are those that can be asked about; `skipped` counts the others; `vocabulary` is None if unknown."""

    skipped: int
    vocabulary: ObjectNames | None


class RegionTask(Task):
    """All boxes of a picture in one call."""

    name = "region"
    looks = {"exact_match": "region_exact", "object_name": "region_name"}

    def read(self, data: DataFolder) -> list[AskedPicture]:
        names, asked = data.object_names, []
        for picture in read_described(data):
            kept = tuple(region for region in picture.regions if _can_be_asked(region, picture.size_wh))
            if data.trained is not None and names is not None:
                kept = tuple(region for region in kept if names.mentions(words_of(region.phrase)))
            if kept:
                known = {**vars(picture), "regions": kept, "skipped": len(picture.regions) - len(kept)}
                asked.append(AskedPicture(**known, vocabulary=names))
        if not asked:
            raise EvaluationDataError(
                f"{data.folder} has no region that can be asked about: inside a picture and, where trained names are "
                "given, with one of them in its phrase."
            )
        return asked

    def ask(self, pictures: Sequence[AskedPicture]) -> dict[str, Any]:
        return {"boxes": [[xywh_to_xyxy(region.box).tolist() for region in picture.regions] for picture in pictures]}

    def record(self, picture: AskedPicture, answers: Sequence[GroundedCaption]) -> dict[str, Any]:
        rows = zip(picture.regions, answers, strict=True)
        return {
            "answers": [{"bbox": list(r.box), "phrase": r.phrase, "caption": a.text, "score": a.score} for r, a in rows]
        }

    def score(self, pictures: Sequence[AskedPicture], records: Sequence[dict[str, Any]], how: Thoroughness) -> Scores:
        pairs = [[(a["caption"], a["phrase"]) for a in record["answers"]] for record in records]
        counted = np.array([len(row) for row in pairs])
        exact = np.array([sum(_words(said) == _words(phrase) for said, phrase in row) for row in pairs])
        metrics = {"exact_match": ratio_of_sums(exact, counted, resamples=how.resamples)}
        names = pictures[0].vocabulary
        if names is not None:
            right, named = (
                np.array(column) for column in zip(*(_names_right(names, row) for row in pairs), strict=True)
            )
            metrics["object_name"] = ratio_of_sums(right, named, resamples=how.resamples)
        notes: tuple[str, ...] = ()
        if how is not QUICK:
            captions, notes = caption_estimates(
                [said for row in pairs for said, _ in row],
                [[phrase] for row in pairs for _, phrase in row],
                [i for i, row in enumerate(pairs) for _ in row],
                meteor_variant=how.meteor,
                resamples=how.resamples,
            )
            metrics |= captions
        counts = {"regions": int(counted.sum()), "skipped_regions": sum(picture.skipped for picture in pictures)}
        return Scores(metrics, counts, (*notes, "exact match: same words, case and punctuation aside"))


def _can_be_asked(region: Region, size_wh: tuple[int, int]) -> bool:
    """Something of it is inside the picture."""
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
