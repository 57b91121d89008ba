"""Boxes, names and masks of photographs whose objects have the names of COCO's categories.

What a caption names is decided by the table and the rule of `category_names`. Objects count where their annotated box
has at least 32² pixels, in the files at hand; crowds are never asked about.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from pixelllm_hf.evaluation.average_precision import NamedBox, average_precision
from pixelllm_hf.evaluation.baselines import Baseline
from pixelllm_hf.evaluation.bootstrap import ratio_of_sums, resampled
from pixelllm_hf.evaluation.category_names import categories_named
from pixelllm_hf.evaluation.images import (
    CategorisedImage,
    CategorisedObject,
    EvaluationDataError,
    Expression,
    ReferredImage,
)
from pixelllm_hf.evaluation.phrases import shares
from pixelllm_hf.evaluation.row_images import read_categorised
from pixelllm_hf.evaluation.scene_folder import DataFolder
from pixelllm_hf.evaluation.segmentation_iou import VARIANT
from pixelllm_hf.evaluation.tasks.segment import SegmentTask
from pixelllm_hf.evaluation.tasks.task import EvalSettings, Scores, Task
from pixelllm_hf.processing.canvas_transform import BoxXYXY, xywh_to_xyxy
from pixelllm_hf.processing.grounded_results import GroundedCaption

LEAST_PIXELS = 32**2
_PERSON = "person"


def is_counted(thing: CategorisedObject) -> bool:
    """Large enough, and one thing."""
    return not thing.crowd and thing.box[2] * thing.box[3] >= LEAST_PIXELS


class CategoryRegionTask(Task):
    """The boxes of all objects of an image in one call: does the caption name the category?"""

    name = "region"

    def read(self, data: DataFolder) -> list[CategorisedImage]:
        images = []
        for image in read_categorised(data):
            asked = tuple(thing for thing in image.objects if is_counted(thing) and _is_inside(thing, image))
            if asked:
                images.append(replace(image, objects=asked))
        return _some(images, data, "an object whose box has at least 32 x 32 pixels")

    def ask(self, images: Sequence[CategorisedImage]) -> dict[str, Any]:
        return {"boxes": [[xywh_to_xyxy(thing.box).tolist() for thing in image.objects] for image in images]}

    def record(self, image: CategorisedImage, answers: Sequence[GroundedCaption]) -> dict[str, Any]:
        rows = zip(image.objects, answers, strict=True)
        return {
            "answers": [
                {"bbox": list(thing.box), "category": thing.name, "caption": a.text, "named": categories_named(a.text)}
                for thing, a in rows
            ]
        }

    def guesses(self, images: Sequence[CategorisedImage], baseline: Baseline) -> Iterable[list[GroundedCaption]]:
        for image in images:
            boxes = [shares(xywh_to_xyxy(thing.box).tolist(), image.size_wh) for thing in image.objects]
            yield [GroundedCaption(baseline.named(image, box), (), (1, 1)) for box in boxes]  # type: ignore[arg-type]

    def score(
        self, images: Sequence[CategorisedImage], records: Sequence[dict[str, Any]], settings: EvalSettings
    ) -> Scores:
        rows = [[(a["category"], a["category"] in a["named"]) for a in record["answers"]] for record in records]
        others = [[(name, right) for name, right in row if name != _PERSON] for row in rows]
        metrics = {
            name: ratio_of_sums(
                np.array([sum(right for _, right in row) for row in chosen]),
                np.array([len(row) for row in chosen]),
                resamples=settings.resamples,
            )
            for name, chosen in (("head_noun", rows), ("head_noun_not_person", others))
        }
        said = [a for record in records for a in record["answers"]]
        counts = {
            "regions": len(said),
            "different_captions": len({a["caption"] for a in said}),
            "captions_without_category": sum(not a["named"] for a in said),
        }
        return Scores(metrics, counts, ("right: the head noun is the category or a synonym",))


class CategoryDenseTask(Task):
    """The model finds the boxes itself; each counts under the category that its caption names."""

    name = "dense"

    def read(self, data: DataFolder) -> list[CategorisedImage]:
        return read_categorised(data)

    def record(self, image: CategorisedImage, answers: Sequence[GroundedCaption]) -> dict[str, Any]:
        rows = []
        for answer in answers:
            assert answer.box is not None, "every detection has one"
            x0, y0, x1, y1 = answer.box
            named = categories_named(answer.text)
            rows.append(
                {
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                    "caption": answer.text,
                    "category": named[0] if named else None,
                    "score": answer.score if answer.box_score is None else answer.box_score,
                }
            )
        return {"answers": rows}

    def guesses(self, images: Sequence[CategorisedImage], baseline: Baseline) -> Iterable[list[GroundedCaption]]:
        for image in images:
            yield [
                GroundedCaption(d.name, (), image.size_wh, box=_pixels(d.box, image.size_wh), box_score=d.score)
                for d in baseline.objects(image)
            ]

    def score(
        self, images: Sequence[CategorisedImage], records: Sequence[dict[str, Any]], settings: EvalSettings
    ) -> Scores:
        found = [
            [NamedBox(a["category"], a["bbox"], a["score"] or 0.0) for a in record["answers"] if a["category"]]
            for record in records
        ]
        known = [[NamedBox(t.name, t.box, crowd=t.crowd) for t in image.objects] for image in images]
        named = average_precision(found, known)
        alike = average_precision(
            [[NamedBox("", a["bbox"], a["score"] or 0.0) for a in record["answers"]] for record in records],
            [[replace(box, name="") for box in boxes] for boxes in known],
        )
        objects = sum(not box.crowd for boxes in known for box in boxes)
        metrics = resampled(
            {"AP50": named.value, "AP50_boxes_alone": alike.value},
            lambda weights: [named.redrawn(weights), alike.redrawn(weights)],
            len(images),
            count=objects,
            resamples=settings.resamples,
        )
        answers = [a for record in records for a in record["answers"]]
        counts = {
            "objects": objects,
            "categories": len(named.annotated),
            "detections": len(answers),
            "detections_without_category": sum(a["category"] is None for a in answers),
        }
        return Scores(metrics, counts, ("AP50: mean over the annotated categories, 101 recalls, as COCO counts",))


class CategorySegmentTask(SegmentTask):
    """Objects that are alone of their category in their image, asked for by its name; the model finds the box too."""

    also_scores = ()

    def read(self, data: DataFolder) -> list[ReferredImage]:
        images, number = [], 0
        for image in read_categorised(data, "segment"):  # those alone of their category
            expressions = []
            for thing in image.objects:
                if is_counted(thing) and thing.segmentation is not None:
                    number += 1
                    expressions.append(Expression(number, thing.name, thing.box, thing.segmentation, None))
            if expressions:
                size_hw = image.size_wh[::-1]
                images.append(ReferredImage(image.image_id, image.file, size_hw, tuple(expressions)))
        return _some(images, data, "an object with a mask that is alone of its category")

    def guesses(self, images: Sequence[ReferredImage], baseline: Baseline) -> Iterable[list[GroundedCaption]]:
        """The baseline's boxes, filled."""
        for image in images:
            answers = []
            for expression in image.expressions:
                size_wh = image.size_hw[1], image.size_hw[0]
                box = _pixels(baseline.box(image, expression.text), size_wh)
                mask = np.zeros(image.size_hw, bool)
                x0, y0, x1, y1 = (int(round(side)) for side in box)
                mask[y0:y1, x0:x1] = True
                answers.append(GroundedCaption(expression.text, (), size_wh, box=box, mask=mask))
            yield answers

    def score(
        self, images: Sequence[ReferredImage], records: Sequence[dict[str, Any]], settings: EvalSettings
    ) -> Scores:
        scores = super().score(images, records, settings)
        kept = {name: value for name, value in scores.metrics.items() if "_busy" not in name}
        return replace(scores, metrics=kept, notes=(VARIANT, "the model finds the box itself"))


def _some(images: list[Any], data: DataFolder, wanted: str) -> list[Any]:
    if not images:
        raise EvaluationDataError(f"no image of {data.folder} has {wanted}.")
    return images


def _is_inside(thing: CategorisedObject, image: CategorisedImage) -> bool:
    x, y, width, height = thing.box
    return x < image.size_wh[0] and y < image.size_wh[1] and x + width > 0 and y + height > 0


def _pixels(box: BoxXYXY, size_wh: tuple[int, int]) -> BoxXYXY:
    width, height = size_wh
    return box[0] * width, box[1] * height, box[2] * width, box[3] * height
