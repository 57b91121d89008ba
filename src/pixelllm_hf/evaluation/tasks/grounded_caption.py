"""Generated captions of photographs whose phrases have boxes: are the nouns right, and where they belong?

Nouns of a caption are its words that are the head word of some phrase with a box anywhere in the split, pronouns and
numbers aside: no parser is needed, and the same words count for every model.

`noun_in_references`: nouns that are a word of one of the image's own captions. `noun_point_in_box`: of the nouns that
are the head word of a phrase with a box in the image's own captions, those whose point lies in the box of one of these
phrases.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from pixelllm_hf.evaluation.baselines import Baseline, caption_of_words
from pixelllm_hf.evaluation.bootstrap import ratio_of_sums
from pixelllm_hf.evaluation.object_names import words_of
from pixelllm_hf.evaluation.phrases import PhrasedImage, head_word, shares
from pixelllm_hf.evaluation.repetition import repetition_metrics
from pixelllm_hf.evaluation.row_images import read_phrased
from pixelllm_hf.evaluation.scene_folder import DataFolder
from pixelllm_hf.evaluation.tasks.task import EvalSettings, Scores, Task
from pixelllm_hf.processing.grounded_results import GroundedCaption
from pixelllm_hf.processing.tasks import TaskSpec, task_spec


class GroundedCaptionTask(Task):
    """One short caption an image."""

    name = "grounded_caption"

    @property
    def spec(self) -> TaskSpec:
        """A caption is asked for."""
        return task_spec("caption")

    def read(self, data: DataFolder) -> list[PhrasedImage]:
        return read_phrased(data)

    def record(self, image: PhrasedImage, answers: Sequence[GroundedCaption]) -> dict[str, Any]:
        answer = answers[0]
        said = {word.lower() for caption in image.captions for word in words_of(caption.text)}
        phrases = [phrase for caption in image.captions for phrase in caption.phrases]
        nouns = []
        for word in answer.words:
            noun = head_word(word.text)
            if noun not in image.heads:
                continue
            point = shares(word.point, answer.image_size)
            named = [phrase for phrase in phrases if phrase.head == noun]
            nouns.append(
                {
                    "noun": noun,
                    "in_references": noun in said,
                    "has_box": bool(named),
                    "point_in_box": any(phrase.holds(point) for phrase in named),  # type: ignore[arg-type]
                }
            )
        return {"caption": answer.text, "score": answer.score, "nouns": nouns}

    def guesses(self, images: Sequence[PhrasedImage], baseline: Baseline) -> Iterable[list[GroundedCaption]]:
        """The baseline's caption, each word with the box that the baseline has for it."""
        said = {image.image_id: [caption.text for caption in image.captions] for image in images}
        for image in images:
            text = baseline.caption(image, said)
            yield [caption_of_words(text, [baseline.box(image, head_word(word)) for word in text.split()])]

    def score(
        self, images: Sequence[PhrasedImage], records: Sequence[dict[str, Any]], settings: EvalSettings
    ) -> Scores:
        def sums(name: str) -> np.ndarray:
            return np.array([sum(noun[name] for noun in record["nouns"]) for record in records])

        nouns = np.array([len(record["nouns"]) for record in records])
        inside, boxed, named = sums("point_in_box"), sums("has_box"), sums("in_references")
        metrics = {
            "noun_point_in_box": ratio_of_sums(inside, boxed, resamples=settings.resamples),
            "noun_in_references": ratio_of_sums(named, nouns, resamples=settings.resamples),
        }
        metrics |= repetition_metrics([record["caption"] for record in records], resamples=settings.resamples)
        counts = {
            "captions": len(records),
            "different_captions": len({record["caption"] for record in records}),
            "nouns": int(nouns.sum()),
        }
        return Scores(metrics, counts, ("nouns: head words of phrases with a box in the split",))
