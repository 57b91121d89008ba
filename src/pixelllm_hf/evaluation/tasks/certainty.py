"""Certainty: given captions are read, and how sure their words' locations are said to be is compared with the truth.

Words of phrases with a box have a location, words outside phrases none; of other phrases without a box that is not
known. The definitions of the numbers are in `evaluation.certainty`, the two curves are among the report's `curves`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from pixelllm_hf.evaluation.baselines import Baseline, BaselineError
from pixelllm_hf.evaluation.certainty import WordCertainties, certainty_metrics, spread_curve, visual_curve
from pixelllm_hf.evaluation.phrases import PhrasedImage, shares, words_between_blanks
from pixelllm_hf.evaluation.tasks.phrases import PhrasesTask
from pixelllm_hf.evaluation.tasks.task import EvalSettings, Scores
from pixelllm_hf.processing.grounded_results import GroundedCaption


class CertaintyTask(PhrasesTask):
    """The same captions are read as for phrases, and other things looked at."""

    name = "certainty"

    def unsupported_reason(self, model: Any) -> str | None:
        if problem := super().unsupported_reason(model):
            return problem
        head = model.config.point_head_config
        if not (head.predict_scale or head.predict_visual):
            return "its point head predicts neither scales nor what is visual (predict_scale, predict_visual)"
        return None

    def record(self, image: PhrasedImage, answers: Sequence[GroundedCaption]) -> dict[str, Any]:
        errors, spreads, probs, placed = [], [], [], []
        threshold = None
        for caption, answer in zip(image.captions, answers, strict=True):
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

    def guesses(self, images: Sequence[PhrasedImage], baseline: Baseline) -> Iterable[list[GroundedCaption]]:
        raise BaselineError("baselines do not say how sure they are.")

    def score(
        self, images: Sequence[PhrasedImage], records: Sequence[dict[str, Any]], settings: EvalSettings
    ) -> Scores:
        measured = certainties(records)
        threshold = next((record["visual_threshold"] for record in records), 0.5)
        counts = {
            "captions": sum(len(image.captions) for image in images),
            "located_words": sum(len(words.errors) for words in measured),
            "words_with_place": int(sum(words.placed.sum() for words in measured)),
            "words_without_place": int(sum((~words.placed).sum() for words in measured)),
        }
        curves = {"spread": spread_curve(measured), "visual": visual_curve(measured)}
        return Scores(
            certainty_metrics(measured, threshold=threshold, resamples=settings.resamples),
            counts,
            ("errors and spreads in shares of the image's sides",),
            {name: curve for name, curve in curves.items() if curve},
        )


def certainties(records: Sequence[dict[str, Any]]) -> list[WordCertainties]:
    """What the records of the task say, image by image."""
    return [
        WordCertainties.of(*(record[name] for name in ("errors", "spreads", "probs", "placed"))) for record in records
    ]
