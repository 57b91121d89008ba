"""Images with what is asked of them and what is true of them, made of the grounded rows that training reads too.

Boxes are as annotated where rows have them so, not clipped to the image, and nothing is reworded: as the official
evaluators read it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pixelllm_hf.evaluation.category_names import canonical
from pixelllm_hf.evaluation.images import (
    CaptionedImage,
    CategorisedImage,
    CategorisedObject,
    DescribedImage,
    EvaluationDataError,
    EvaluationScene,
    Expression,
    ReferredImage,
    Region,
    StoredFile,
)
from pixelllm_hf.evaluation.known_objects import KnownObject, class_of, known_objects
from pixelllm_hf.evaluation.phrases import PhrasedImage, noun_words, phrased_caption
from pixelllm_hf.evaluation.scene_folder import DataFolder
from pixelllm_hf.processing.canvas_transform import BoxXYWH

Prompt = Mapping[str, Any]
ImageRows = tuple[str, Path | StoredFile, tuple[int, int], list[Prompt]]  # id, image, width and height, prompts


def read_scenes(data: DataFolder) -> list[EvaluationScene]:
    """Images whose objects are known, and all of them: those of `instances.json`, or of the rows of a prepared one."""
    objects, scenes = known_objects(data.need_objects()), []
    for image_id, file, _, _ in images_of(data.scene_rows()):
        if image_id not in objects:
            raise EvaluationDataError(f"{data.need_objects()} does not list image {image_id!r}.")
        names = tuple(data.counted_as(thing.name) for thing in objects[image_id])
        boxes = np.array([thing.box for thing in objects[image_id]], np.float64).reshape(-1, 4)
        scenes.append(EvaluationScene(image_id, file, names, boxes))
    return _some(scenes, data)


def read_referred(data: DataFolder, task: str = "refer") -> list[ReferredImage]:
    """Images with referring expressions, in the order of the rows. task: "segment" for their masks too."""
    objects, images, number = _objects(data, task), [], 0
    for image_id, file, (width, height), prompts in images_of(data.rows(task)):
        expressions = []
        for prompt in prompts:
            number += 1
            name, alike = class_of(prompt, objects.get(image_id, []))
            expressions.append(
                Expression(
                    number,
                    prompt["target"],
                    _box(prompt),
                    prompt["mask"],
                    None if name is None else alike > 1,
                    None if name is None else data.is_trained(name),
                )
            )
        if expressions:
            images.append(ReferredImage(image_id, file, (height, width), tuple(expressions)))
    return _some(images, data)


def read_described(data: DataFolder, task: str = "region") -> list[DescribedImage]:
    """Images with described regions, perhaps none."""
    return _some(
        [
            DescribedImage(image_id, file, size_wh, tuple(Region(_box(p), p["target"]) for p in prompts))
            for image_id, file, size_wh, prompts in images_of(data.rows(task))
        ],
        data,
    )


def read_captioned(data: DataFolder) -> list[CaptionedImage]:
    """Images with captions; as in the official evaluation those without one are left out."""
    objects, images = _objects(data, "caption"), []
    for image_id, file, _, prompts in images_of(data.rows("caption")):
        # Rows may hold objects beside the captions, which are about the whole image.
        captions = tuple(prompt["target"] for prompt in prompts if prompt["box"] is None)
        names = None
        if image_id in objects:
            names = frozenset(data.counted_as(thing.name) for thing in objects[image_id])
        if captions:
            images.append(CaptionedImage(image_id, file, captions, names))
    return _some(images, data)


def read_phrased(data: DataFolder) -> list[PhrasedImage]:
    """Images with captions whose phrases have boxes."""
    found = []
    for image_id, file, size_wh, prompts in images_of(data.rows("caption")):
        found.append((image_id, file, tuple(phrased_caption(prompt, size_wh) for prompt in prompts)))
    heads = noun_words([caption for *_, captions in found for caption in captions])
    return _some([PhrasedImage(*known, heads) for known in found], data)


def read_categorised(data: DataFolder, task: str = "dense") -> list[CategorisedImage]:
    """Images with objects of known categories. task: "segment" for those alone of theirs, with their masks."""
    images = []
    for image_id, file, size_wh, prompts in images_of(data.rows(task)):
        objects = [
            CategorisedObject(canonical(prompt["target"]), _box(prompt), bool(prompt["crowd"]), prompt["mask"])
            for prompt in prompts
        ]
        images.append(CategorisedImage(image_id, file, size_wh, tuple(objects)))
    return _some(images, data)


def annotated_names(data: DataFolder) -> list[str]:
    """The categories of all objects, crowds aside, as often as they are annotated."""
    return [thing.name for image in read_categorised(data) for thing in image.objects if not thing.crowd]


def images_of(rows: Any) -> Iterator[ImageRows]:
    """Rows of one image together; an image stands where its first row stands."""
    if not hasattr(rows, "select_columns") or not hasattr(rows, "__len__"):
        yield from _streamed(rows)
        return
    members: dict[str, list[int]] = {}
    for index, image_id in enumerate(rows["image_id"]):
        members.setdefault(image_id, []).append(index)
    files, others = rows.select_columns(["image"]), rows.remove_columns(["image"])
    for image_id, indices in members.items():
        own = [others[index] for index in indices]
        prompts = [prompt for row in own for prompt in row["prompts"]]
        yield image_id, StoredFile(files, indices[0]), (own[0]["width"], own[0]["height"]), prompts


def _streamed(rows: Iterable[Mapping[str, Any]]) -> Iterator[ImageRows]:
    merged: dict[str, ImageRows] = {}
    for row in rows:
        image_id, size_wh = row["image_id"], (row["width"], row["height"])
        known = merged.setdefault(image_id, (image_id, Path(row["image"]["path"]), size_wh, []))
        known[3].extend(row["prompts"])
    yield from merged.values()


def _objects(data: DataFolder, task: str) -> dict[str, list[KnownObject]]:
    path = data.objects_of(task)
    return {} if path is None else known_objects(path)


def _box(prompt: Prompt) -> BoxXYWH:
    """xywh, as annotated if that is known."""
    if prompt["annotation_box"] is not None:
        x, y, width, height = prompt["annotation_box"]
        return x, y, width, height
    x0, y0, x1, y1 = prompt["object_box"]
    return x0, y0, x1 - x0, y1 - y0


def _some(images: Sequence[Any], data: DataFolder) -> list[Any]:
    if not images:
        raise EvaluationDataError(
            f"{data.folder} has no image with something to ask about, so there is nothing to evaluate."
        )
    return list(images)
