"""What is true of the pictures, read as the official evaluators read it: boxes are not clipped, nothing is reworded.

A folder that `scripts/prepare_dataset.py` made has it in its rows instead, see `prepared_annotations`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np

from pixelllm_hf.data import read_coco_instances, read_localized_narratives, read_prepared
from pixelllm_hf.data.annotation_text import load_json
from pixelllm_hf.data.bad_records import BadRecordError
from pixelllm_hf.data.image_folder import ImageFolder
from pixelllm_hf.data.record_fields import required
from pixelllm_hf.data.referring_expressions import load_refs
from pixelllm_hf.evaluation.pictures import (
    Box,
    CaptionedPicture,
    DescribedPicture,
    EvaluationDataError,
    EvaluationScene,
    Expression,
    ReferredPicture,
    Region,
)
from pixelllm_hf.evaluation.prepared_annotations import PreparedAnnotations
from pixelllm_hf.evaluation.scene_folder import INSTANCES, DataFolder

NARRATIVES = "localized_narratives.jsonl"
REFS = ("refs.json", "refs(unc).p", "refs(umd).p", "refs(google).p")
REGIONS, IMAGE_DATA = "region_descriptions.json", "image_data.json"
DENSE = ("dense.json", "test.json", "grit_test.json")  # GRiT's layout: COCO instances with captions


def read_scenes(data: DataFolder) -> list[EvaluationScene]:
    """Pictures whose objects are known: all of `instances.json`, or the prepared rows with narratives."""
    if data.is_prepared:
        return list(PreparedAnnotations(data, "trace").scenes())
    instances = data.need(INSTANCES)
    dataset = read_coco_instances(instances, data.pictures, streaming=True)
    categories = dataset.features["objects"].feature["category"].names
    scenes = [
        EvaluationScene(
            image_id=row["image_id"],
            file=Path(row["image"]["path"]),
            names=tuple(data.counted_as(categories[obj["category"]]) for obj in row["objects"]),
            boxes=np.array([obj["box"] for obj in row["objects"]], np.float64).reshape(-1, 4),
        )
        for row in dataset.cast_column("image", datasets.Image(decode=False))
    ]
    return _some(scenes, instances)


def read_narratives(data: DataFolder) -> Any:
    """Grounded rows of the narratives in the folder; None if there are none."""
    if data.is_prepared:
        return read_prepared(data.folder, task="trace", split=data.split)
    narratives = data.find(NARRATIVES)
    return None if narratives is None else read_localized_narratives(narratives, data.pictures)


def read_referred(data: DataFolder) -> list[ReferredPicture]:
    """Pictures with referring expressions, in the order of the refs file."""
    if data.is_prepared:
        return list(PreparedAnnotations(data, "refer").referred())
    refs_file = data.need(*(f"{folder}{name}" for folder in ("refcoco/", "") for name in REFS))
    coco = load_json(data.need("refcoco/instances.json", "instances.json"), dict)
    images = {image["id"]: image for image in coco["images"]}
    annotations = {annotation["id"]: annotation for annotation in coco["annotations"]}
    names = {category.get("id"): category.get("name") for category in coco.get("categories", [])}
    alike: dict[tuple[Any, Any], int] = defaultdict(int)
    for annotation in coco["annotations"]:
        alike[annotation["image_id"], annotation.get("category_id")] += not annotation.get("iscrowd")
    refs = _of_split(load_refs(refs_file), refs_file, data.split)
    by_image: dict[Any, list[tuple[int, dict[str, Any]]]] = defaultdict(list)
    for index, ref in refs:
        by_image[required(f"{refs_file}, ref {index}", ref, "image_id")[0]].append((index, ref))
    folder, pictures, number = ImageFolder(data.pictures), [], 0
    for image_id, members in by_image.items():
        where = f"{refs_file}, image {image_id}"
        image = _known(where, "image", images, image_id)
        width, height = required(where, image, "width", "height")
        expressions = []
        for index, ref in members:
            where = f"{refs_file}, ref {index}"
            annotation_id, sentences = required(where, ref, "ann_id", "sentences")
            annotation = _known(where, "annotation", annotations, annotation_id)
            box = _box(where, annotation.get("bbox"))
            trained = data.is_trained(str(names.get(annotation.get("category_id"))))
            distractor = alike[image_id, annotation.get("category_id")] > 1
            for sentence in sentences:
                text = str(sentence.get("sent") or sentence.get("raw") or "").strip()
                if text:
                    number += 1
                    mask = annotation.get("segmentation")
                    expressions.append(Expression(number, text, box, mask, distractor, trained))
        if expressions:
            path = folder.find(where, image_id, image.get("file_name"))
            pictures.append(ReferredPicture(str(image_id), path, (height, width), tuple(expressions)))
    return _some(pictures, refs_file)


def _of_split(refs: list[dict[str, Any]], file: Path, split: str | None) -> list[tuple[int, dict[str, Any]]]:
    known = sorted({str(ref.get("split")) for ref in refs})
    if (split is None and len(known) > 1) or (split is not None and split not in known):
        raise EvaluationDataError(
            f"{file} has the splits {', '.join(known)}, but --split is {split!r}; name one of them."
        )
    return [(index, ref) for index, ref in enumerate(refs) if split in (None, ref.get("split"))]


def read_described(data: DataFolder) -> list[DescribedPicture]:
    """Pictures with described regions: Visual Genome's two files, or GRiT's one for dense captioning."""
    if data.is_prepared:
        return list(PreparedAnnotations(data, "region").described())
    grit = data.find(*(f"{folder}{name}" for folder in ("visual_genome/", "") for name in DENSE))
    if grit is not None:
        return _some(list(_grit(grit, ImageFolder(data.pictures))), grit)
    regions_file = data.need(f"visual_genome/{REGIONS}", REGIONS)
    about = {image["image_id"]: image for image in load_json(regions_file.parent / IMAGE_DATA, list)}
    folder, pictures = ImageFolder(data.pictures), []
    for index, record in enumerate(load_json(regions_file, list)):
        where = f"{regions_file}, record {index}"
        image_id, listed = required(where, record, "id", "regions")
        image = _known(where, "image", about, image_id)
        path = folder.find(where, image_id, Path(image.get("url") or "").name)
        regions = []
        for k, region in enumerate(listed):
            phrase, *box = required(f"{where}, region {k}", region, "phrase", "x", "y", "width", "height")
            regions.append(Region(_box(f"{where}, region {k}", box), phrase.strip()))
        size = required(where, image, "width", "height")
        pictures.append(DescribedPicture(str(image_id), path, size, tuple(regions)))
    return _some(pictures, regions_file)


def _grit(file: Path, folder: ImageFolder) -> Iterator[DescribedPicture]:
    coco = load_json(file, dict)
    by_image: dict[Any, list[Region]] = defaultdict(list)
    for index, annotation in enumerate(coco.get("annotations", [])):
        where = f"{file}, annotation {index}"
        image_id, box, phrase = required(where, annotation, "image_id", "bbox", "caption")
        by_image[image_id].append(Region(_box(where, box), str(phrase).strip()))
    for index, image in enumerate(coco.get("images", [])):
        where = f"{file}, image {index}"
        image_id, width, height = required(where, image, "id", "width", "height")
        path = folder.find(where, image_id, image.get("file_name"))
        yield DescribedPicture(str(image_id), path, (width, height), tuple(by_image[image_id]))


def read_captioned(data: DataFolder) -> list[CaptionedPicture]:
    """Pictures of a COCO captions file; as in the official evaluation those without a caption are left out."""
    if data.is_prepared:
        return list(PreparedAnnotations(data, "caption").captioned())
    file = data.need("captions.json")
    coco = load_json(file, dict)
    captions: dict[Any, list[str]] = defaultdict(list)
    for index, annotation in enumerate(coco.get("annotations", [])):
        image_id, caption = required(f"{file}, annotation {index}", annotation, "image_id", "caption")
        if str(caption).strip():
            captions[image_id].append(str(caption).strip())
    names = _names_of_images(data)
    folder, pictures = ImageFolder(data.pictures), []
    for index, image in enumerate(coco.get("images", [])):
        where = f"{file}, image {index}"
        (image_id,) = required(where, image, "id")
        if captions[image_id]:
            path = folder.find(where, image_id, image.get("file_name"))
            pictures.append(CaptionedPicture(str(image_id), path, tuple(captions[image_id]), names.get(image_id)))
    return _some(pictures, file)


def _names_of_images(data: DataFolder) -> dict[Any, frozenset[str]]:
    """image id -> names of its objects, for the images that `instances.json` lists."""
    instances = data.find(INSTANCES)
    if instances is None:
        return {}
    coco = load_json(instances, dict)
    categories = {category["id"]: category["name"] for category in coco.get("categories", [])}
    names: dict[Any, set[str]] = {image["id"]: set() for image in coco.get("images", [])}
    for annotation in coco["annotations"]:
        names.setdefault(annotation["image_id"], set()).add(data.counted_as(categories[annotation["category_id"]]))
    return {image_id: frozenset(present) for image_id, present in names.items()}


def _known(where: str, what: str, records: dict[Any, dict[str, Any]], key: Any) -> dict[str, Any]:
    if key not in records:
        raise BadRecordError(f"missing {what}", where, f"{what} {key!r} is unknown.", "Pass the matching files.")
    return records[key]


def _box(where: str, box: Any) -> Box:
    try:
        x, y, width, height = (float(value) for value in box)
    except (TypeError, ValueError) as error:
        raise BadRecordError(
            "malformed box", where, f"a box must be four numbers x, y, w, h, but it is {box!r}.", "Correct the record."
        ) from error
    return x, y, width, height


def _some(pictures: list[Any], file: Path) -> list[Any]:
    if not pictures:
        raise EvaluationDataError(
            f"{file} has no picture with something to ask about, so there is nothing to evaluate."
        )
    return pictures
