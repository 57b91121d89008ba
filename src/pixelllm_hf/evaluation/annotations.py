"""What is true of the pictures, read as the official evaluators read it: boxes are not clipped, nothing is reworded.

A folder that `scripts/prepare_dataset.py` made has it in its rows instead, see `prepared_annotations`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from pixelllm_hf.data import read_format, read_localized_narratives, read_prepared
from pixelllm_hf.data.annotation_text import read_records
from pixelllm_hf.data.bad_records import BadRecordError, ReadReport
from pixelllm_hf.data.coco_files import CocoFile
from pixelllm_hf.data.coco_objects import spoken_name
from pixelllm_hf.data.image_folder import ImageFolder
from pixelllm_hf.data.mixing import undecoded
from pixelllm_hf.data.record_fields import (
    annotated_xywh,
    checked_flag,
    checked_id,
    checked_list,
    checked_string,
    checked_xywh,
    image_size_wh,
    required,
    required_one,
    shown,
)
from pixelllm_hf.data.referring_expressions import read_refs, records_by_id
from pixelllm_hf.data.visual_genome import find_image, read_image_data
from pixelllm_hf.evaluation.category_names import canonical
from pixelllm_hf.evaluation.phrases import PhrasedPicture, noun_words, phrased_caption
from pixelllm_hf.evaluation.pictures import (
    CaptionedPicture,
    CategorisedObject,
    CategorisedPicture,
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
    coco, folder, scenes = CocoFile.read(instances), ImageFolder(data.pictures), []
    for image in coco.by_image(ReadReport(), "raise"):
        names, boxes = [], []
        for where, record in image.annotations:
            box, number = required(where, record, "bbox", "category_id")
            names.append(data.counted_as(coco.category(where, number)))
            boxes.append(checked_xywh(where, box, image.size_wh))
        known = np.array(boxes, np.float64).reshape(-1, 4)
        scenes.append(EvaluationScene(str(image.id), image.find_in(folder), tuple(names), known))
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
    instances = data.need("refcoco/instances.json", "instances.json")
    coco = CocoFile.read(instances)
    images = records_by_id(f"{instances}, image", coco.images, ReadReport(), "raise")
    annotations = records_by_id(f"{instances}, annotation", coco.annotations, ReadReport(), "raise")
    alike: dict[tuple[Any, Any], int] = defaultdict(int)
    for number, annotation in annotations.items():
        where = f"{instances}, annotation of id {shown(number)}"
        image_id = checked_id(where, required_one(where, annotation, "image_id"))
        crowd = checked_flag(where, annotation.get("iscrowd"), "iscrowd")
        alike[image_id, _category(where, annotation)] += not crowd
    by_image: dict[Any, list[tuple[str, dict[str, Any]]]] = defaultdict(list)
    for where, ref in _of_split(list(read_refs(refs_file, ReadReport(), "raise")), refs_file, data.split):
        by_image[checked_id(where, required_one(where, ref, "image_id"))].append((where, ref))
    folder, pictures, number = ImageFolder(data.pictures), [], 0
    for image_id, members in by_image.items():
        image = _known(members[0][0], "image", images, image_id)
        width, height = image_size_wh(members[0][0], image)
        expressions = []
        for where, ref in members:
            annotation_id, sentences = required(where, ref, "ann_id", "sentences")
            annotation = _known(where, "annotation", annotations, checked_id(where, annotation_id))
            box = annotated_xywh(where, required_one(where, annotation, "bbox"))
            category = _category(where, annotation)
            trained = data.is_trained(coco.categories.get(category, "") if category is not None else "")
            for sentence in checked_list(where, sentences, "sentences"):
                said = (sentence.get("sent") or sentence.get("raw") or "") if isinstance(sentence, dict) else sentence
                text = checked_string(where, said, "an expression").strip()
                if text:
                    number += 1
                    mask, distractor = annotation.get("segmentation"), alike[image_id, category] > 1
                    expressions.append(Expression(number, text, box, mask, distractor, trained))
        if expressions:
            path = folder.find(members[0][0], image_id, image.get("file_name"))
            pictures.append(ReferredPicture(str(image_id), path, (height, width), tuple(expressions)))
    return _some(pictures, refs_file)


def _category(where: str, annotation: dict[str, Any]) -> int | str | None:
    number = annotation.get("category_id")
    return None if number is None else checked_id(where, number)


def _of_split(
    refs: list[tuple[str, dict[str, Any]]], file: Path, split: str | None
) -> list[tuple[str, dict[str, Any]]]:
    known = sorted({shown(ref.get("split")).strip("'") for _, ref in refs})
    if (split is None and len(known) > 1) or (split is not None and split not in known):
        raise EvaluationDataError(
            f"{file} has the splits {', '.join(known)}, but --split is {split!r}; name one of them."
        )
    return [(where, ref) for where, ref in refs if split in (None, ref.get("split"))]


def read_described(data: DataFolder) -> list[DescribedPicture]:
    """Pictures with described regions: Visual Genome's two files, or GRiT's one for dense captioning."""
    if data.is_prepared:
        return list(PreparedAnnotations(data, "region").described())
    grit = data.find(*(f"{folder}{name}" for folder in ("visual_genome/", "") for name in DENSE))
    if grit is not None:
        return _some(list(_grit(grit, ImageFolder(data.pictures))), grit)
    regions_file = data.need(f"visual_genome/{REGIONS}", REGIONS)
    about = read_image_data(regions_file.parent / IMAGE_DATA, ReadReport(), "raise")
    folder, pictures = ImageFolder(data.pictures), []
    for where, record in read_records(regions_file, ReadReport(), "raise"):
        image_id = checked_id(where, required_one(where, record, "id", "image_id"))
        path, size_wh = find_image(folder, where, image_id, about)
        regions = []
        for k, region in enumerate(checked_list(where, required_one(where, record, "regions"), "regions")):
            place = f"{where}, region {k}"
            phrase, *box = required(place, region, "phrase", "x", "y", "width", "height")
            regions.append(Region(annotated_xywh(place, box), checked_string(place, phrase, "phrase").strip()))
        pictures.append(DescribedPicture(str(image_id), path, size_wh, tuple(regions)))
    return _some(pictures, regions_file)


def _grit(file: Path, folder: ImageFolder) -> Iterator[DescribedPicture]:
    coco = CocoFile.read(file)
    by_image: dict[Any, list[Region]] = defaultdict(list)
    for index, annotation in enumerate(coco.annotations):
        where = f"{file}, annotation {index}"
        image_id, box, phrase = required(where, annotation, "image_id", "bbox", "caption")
        region = Region(annotated_xywh(where, box), checked_string(where, phrase, "caption").strip())
        by_image[checked_id(where, image_id)].append(region)
    for where, image_id, image in _ids(file, coco):
        path = folder.find(where, image_id, image.get("file_name"))
        yield DescribedPicture(str(image_id), path, image_size_wh(where, image), tuple(by_image[image_id]))


def _ids(file: Path, coco: CocoFile) -> Iterator[tuple[str, int | str, dict[str, Any]]]:
    """Where it is, id and record of every image. As in the official evaluations, annotations may be of others."""
    for index, image in enumerate(coco.images):
        where = f"{file}, image {index}"
        yield where, checked_id(where, required_one(where, image, "id")), image


def read_captioned(data: DataFolder) -> list[CaptionedPicture]:
    """Pictures of a COCO captions file; as in the official evaluation those without a caption are left out."""
    if data.is_prepared:
        return list(PreparedAnnotations(data, "caption").captioned())
    file = data.coco_file("captions") if data.layout == "coco" else data.need("captions.json")
    coco = CocoFile.read(file)
    captions: dict[Any, list[str]] = defaultdict(list)
    for index, annotation in enumerate(coco.annotations):
        where = f"{file}, annotation {index}"
        image_id, caption = required(where, annotation, "image_id", "caption")
        if text := checked_string(where, caption, "the caption").strip():
            captions[checked_id(where, image_id)].append(text)
    names, folder, pictures = _names_of_images(data), ImageFolder(data.pictures), []
    for where, image_id, image in _ids(file, coco):
        if captions[image_id]:
            path = folder.find(where, image_id, image.get("file_name"))
            pictures.append(CaptionedPicture(str(image_id), path, tuple(captions[image_id]), names.get(image_id)))
    return _some(pictures, file)


def _names_of_images(data: DataFolder) -> dict[Any, frozenset[str]]:
    """image id -> names of its objects, for the images that `instances.json` lists."""
    instances = data.find(INSTANCES)
    if instances is None:
        return {}
    coco = CocoFile.read(instances)
    names: dict[Any, set[str]] = {image_id: set() for _, image_id, _ in _ids(instances, coco)}
    for index, annotation in enumerate(coco.annotations):
        where = f"{instances}, annotation {index}"
        image_id, number = required(where, annotation, "image_id", "category_id")
        names.setdefault(checked_id(where, image_id), set()).add(data.counted_as(coco.category(where, number)))
    return {image_id: frozenset(present) for image_id, present in names.items()}


def read_phrased(data: DataFolder) -> list[PhrasedPicture]:
    """Images of a Flickr30k Entities folder with their captions and phrases."""
    rows = undecoded(
        read_format("flickr30k_entities", data.folder, data.pictures, task="caption", split=data.split, streaming=True)
    )
    found = [
        (
            row["image_id"],
            row["image"]["path"],
            [phrased_caption(p, (row["width"], row["height"])) for p in row["prompts"]],
        )
        for row in rows
    ]
    heads = noun_words([caption for *_, captions in found for caption in captions])
    pictures = [PhrasedPicture(image_id, Path(path), tuple(captions), heads) for image_id, path, captions in found]
    return _some(pictures, data.folder)


def read_categorised(data: DataFolder) -> list[CategorisedPicture]:
    """Images of COCO's instances of a split, with all their objects as annotated."""
    file = data.coco_file("instances")
    coco, folder, pictures = CocoFile.read(file), ImageFolder(data.pictures), []
    for image in coco.by_image(ReadReport(), "raise"):
        objects = []
        for where, record in image.annotations:
            box, number = required(where, record, "bbox", "category_id")
            name = canonical(spoken_name(coco.category(where, number)))
            crowd = checked_flag(where, record.get("iscrowd"), "iscrowd")
            objects.append(
                CategorisedObject(name, annotated_xywh(where, box), crowd, record.get("segmentation") or None)
            )
        pictures.append(CategorisedPicture(str(image.id), image.find_in(folder), image.size_wh, tuple(objects)))
    return _some(pictures, file)


def annotated_names(data: DataFolder) -> list[str]:
    """The categories of all objects of COCO's instances of a split, crowds aside, as often as they are annotated."""
    return [thing.name for picture in read_categorised(data) for thing in picture.objects if not thing.crowd]


def _known(where: str, what: str, records: dict[Any, dict[str, Any]], key: Any) -> dict[str, Any]:
    if key not in records:
        raise BadRecordError(f"missing {what}", where, f"{what} {shown(key)} is unknown.", "Pass the matching files.")
    return records[key]


def _some(pictures: list[Any], file: Path) -> list[Any]:
    if not pictures:
        raise EvaluationDataError(
            f"{file} has no picture with something to ask about, so there is nothing to evaluate."
        )
    return pictures
