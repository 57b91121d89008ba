"""Certainty: given captions are read, and how sure their words' places are said to be is compared with the truth.

Words of phrases with a box have a place, words outside phrases none; of other phrases without a box that is not known.
The definitions of the numbers are in `evaluation.certainty`, the two curves are among the report's `curves`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from pixelllm_hf.evaluation.baselines import Baseline, BaselineError
from pixelllm_hf.evaluation.certainty import WordCertainties, certainty_metrics, spread_curve, visual_curve
from pixelllm_hf.evaluation.phrases import PhrasedPicture, shares, words_between_blanks
from pixelllm_hf.evaluation.tasks.phrases import PhrasesTask
from pixelllm_hf.evaluation.tasks.task import Scores, Thoroughness
from pixelllm_hf.processing.grounded_results import GroundedCaption


class CertaintyTask(PhrasesTask):
    """The same captions are read as for phrases, and other things looked at."""

    name = "certainty"

    def problem(self, model: Any) -> str | None:
        if problem := super().problem(model):
            return problem
        head = model.config.point_head_config
        if not (head.predict_scale or head.predict_visual):
            return "its point head predicts neither scales nor what is visual (predict_scale, predict_visual)"
        return None

    def record(self, picture: PhrasedPicture, answers: Sequence[GroundedCaption]) -> dict[str, Any]:
        errors, spreads, probs, placed = [], [], [], []
        threshold = None
        for caption, answer in zip(picture.captions, answers, strict=True):
            threshold = answer.visual_threshold
            boxes = {i: phrase.box for phrase in caption.phrases for i in range(phrase.first, phrase.last + 1)}
            for i, word in enumerate(words_between_blanks(caption.text, answer)):
                if word is None:
                    continue
                if i in boxes and word.box is not None and word.spread is not None:
                    box, spread = (shares(values, answer.image_size) for values in (word.box, word.spread))
                    errors.append(np.abs(np.subtract(box, boxes[i])).tolist())  # type: ignore[arg-type]
                    spreads.append(spread)
                if word.visual is not None and (i in boxes or i in caption.nowhere):
                    probs.append(word.visual)
                    placed.append(i in boxes)
        return {
            "errors": errors,
            "spreads": spreads,
            "probs": probs,
            "placed": placed,
            "visual_threshold": threshold,
        }

    def guesses(self, pictures: Sequence[PhrasedPicture], baseline: Baseline) -> Iterable[list[GroundedCaption]]:
        raise BaselineError("baselines do not say how sure they are.")

    def score(self, pictures: Sequence[PhrasedPicture], records: Sequence[dict[str, Any]], how: Thoroughness) -> Scores:
        images = certainties(records)
        threshold = next((record["visual_threshold"] for record in records), 0.5)
        counts = {
            "captions": sum(len(picture.captions) for picture in pictures),
            "located_words": sum(len(image.errors) for image in images),
            "words_with_place": int(sum(image.placed.sum() for image in images)),
            "words_without_place": int(sum((~image.placed).sum() for image in images)),
        }
        curves = {"spread": spread_curve(images), "visual": visual_curve(images)}
        return Scores(
            certainty_metrics(images, threshold=threshold, resamples=how.resamples),
            counts,
            ("errors and spreads in shares of the image's sides",),
            {name: curve for name, curve in curves.items() if curve},
        )


def certainties(records: Sequence[dict[str, Any]]) -> list[WordCertainties]:
    """What the records of the task say, image by image."""
    return [
        WordCertainties.of(*(record[name] for name in ("errors", "spreads", "probs", "placed"))) for record in records
    ]
