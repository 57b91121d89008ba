"""Phrase grounding: given captions are read, and their words' locations are compared with the boxes of their phrases.

R@1: phrases whose box has an IoU of at least 0.5 with the phrase's, as in the protocol of Flickr30k Entities (Plummer
et al. 2015). The model's box of a phrase is that of its last word, as referring expressions are read. `point_in_box`:
words of phrases whose point lies in their phrase's box. Words and phrases without a box in the data are not counted;
where the model gives a word no location, it counts as a miss.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from pixelllm_hf.evaluation.baselines import Baseline, caption_of_words
from pixelllm_hf.evaluation.bootstrap import ratio_of_sums
from pixelllm_hf.evaluation.box_iou import aligned_box_iou
from pixelllm_hf.evaluation.phrases import PhrasedCaption, PhrasedImage, shares, words_between_blanks
from pixelllm_hf.evaluation.row_images import read_phrased
from pixelllm_hf.evaluation.scene_folder import DataFolder
from pixelllm_hf.evaluation.tasks.task import EvalSettings, Scores, Task
from pixelllm_hf.processing.canvas_transform import xyxy_to_xywh
from pixelllm_hf.processing.grounded_results import GroundedCaption
from pixelllm_hf.processing.tasks import TaskSpec, task_spec
from pixelllm_hf.processing.writable_text import as_characters

HIT = 0.5 - 1e-6  # rows hold float32: an overlap of one half is one


class PhrasesTask(Task):
    """All captions of an image in one call, so that the image is encoded once."""

    name = "phrases"

    @property
    def searches(self) -> bool:
        """The answers are given."""
        return False

    @property
    def spec(self) -> TaskSpec:
        """Captions are asked for, but given."""
        return task_spec("caption")

    def read(self, data: DataFolder) -> list[PhrasedImage]:
        images = []
        for image in read_phrased(data):
            placed = tuple(caption for caption in image.captions if caption.phrases)
            if placed:
                images.append(PhrasedImage(**{**vars(image), "captions": placed}))
        return images

    def ask(self, images: Sequence[PhrasedImage]) -> dict[str, Any]:
        return {"text": [[None] * len(image.captions) for image in images]}

    def inputs(self, processor: Any, images: Sequence[PhrasedImage]) -> Mapping[str, Any]:
        """Those of captions, with the answers given."""
        inputs = super().inputs(processor, images)
        texts = [caption.text for image in images for caption in image.captions]
        encoded = processor.encode_prompts(texts, may_be_unwritable=True, truncation=True)
        inputs["query_ids"] = inputs["input_ids"].new_tensor(encoded["input_ids"].tolist())
        inputs["query_characters"] = inputs["input_ids"].new_tensor(as_characters(texts).tolist())
        return inputs

    def record(self, image: PhrasedImage, answers: Sequence[GroundedCaption]) -> dict[str, Any]:
        read = zip(image.captions, answers, strict=True)
        return {"captions": [_compared(caption, answer) for caption, answer in read]}

    def guesses(self, images: Sequence[PhrasedImage], baseline: Baseline) -> Iterable[list[GroundedCaption]]:
        """Every word of a phrase with the box that the baseline has for its head word."""
        for image in images:
            answers = []
            for caption in image.captions:
                boxes: list[Any] = [None] * len(caption.text.split())
                for phrase in caption.phrases:
                    box = baseline.box(image, phrase.head)
                    boxes[phrase.first : phrase.last + 1] = [box] * (phrase.last + 1 - phrase.first)
                answers.append(caption_of_words(caption.text, boxes))
            yield answers

    def score(
        self, images: Sequence[PhrasedImage], records: Sequence[dict[str, Any]], settings: EvalSettings
    ) -> Scores:
        captions = [record["captions"] for record in records]
        ious = [np.array([phrase["iou"] for caption in row for phrase in caption["phrases"]]) for row in captions]
        phrases = np.array([len(row) for row in ious])
        words, inside = (
            np.array([sum(caption[name] for caption in row) for row in captions]) for name in ("words", "words_in_box")
        )
        metrics = {
            "R@1": ratio_of_sums(np.array([(row >= HIT).sum() for row in ious]), phrases, resamples=settings.resamples),
            "mean_IoU": ratio_of_sums(np.array([row.sum() for row in ious]), phrases, resamples=settings.resamples),
            "point_in_box": ratio_of_sums(inside, words, resamples=settings.resamples),
        }
        counts = {
            "captions": sum(map(len, captions)),
            "phrases": int(phrases.sum()),
            "words": int(words.sum()),
            "phrases_without_box": sum(
                phrase["box"] is None for row in captions for caption in row for phrase in caption["phrases"]
            ),
        }
        return Scores(metrics, counts, ("R@1: IoU of at least 0.5 with the box around all boxes of the phrase",))


def _compared(caption: PhrasedCaption, answer: GroundedCaption) -> dict[str, Any]:
    """caption, its phrases with their box and IoU, and how many of their words have their point in the phrase's box."""
    words, phrases, counted, inside = words_between_blanks(caption.text, answer), [], 0, 0
    spoken = [any(map(str.isalnum, word)) for word in caption.text.split()]
    for phrase in caption.phrases:
        last = None
        for i in range(phrase.first, phrase.last + 1):
            if not spoken[i]:
                continue
            counted += 1
            last = words[i]
            inside += last is not None and phrase.holds(shares(last.point, answer.image_size))  # type: ignore[arg-type]
        box = None if last is None else shares(last.box, answer.image_size)
        iou = 0.0 if box is None else float(aligned_box_iou(xyxy_to_xywh(box), xyxy_to_xywh(phrase.box)))
        phrases.append({"phrase": phrase.text, "box": None if box is None else [round(v, 4) for v in box], "iou": iou})
    return {"caption": caption.text, "phrases": phrases, "words": counted, "words_in_box": int(inside)}
