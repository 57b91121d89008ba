"""What is in the images of a prepared folder: `instances.json` beside its shards, in COCO's layout, without masks.

Training does without it. Evaluation reads from it which names captions may use, which of them are present, and whether
other objects of an expression's class are in the image.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pixelllm_hf.data.bad_records import ReadReport
from pixelllm_hf.data.coco_files import CocoFile
from pixelllm_hf.files import atomic_text

OBJECTS = "instances.json"


def write_objects(instances: str | Path, folder: Path, image_ids: Iterable[str]) -> int:
    """Write the objects of these images, which are those of a COCO instances file; gives how many images it knows.

    Images are called as the rows call them. Those that the file does not list are left out: of them nothing is known.
    """
    coco = CocoFile.read(instances)
    listed = {image_key(image.id): image for image in coco.by_image(ReadReport(), "skip")}
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image_id in image_ids:
        image = listed.get(image_key(image_id))
        if image is None:
            continue
        width, height = image.size_wh
        images.append({"id": image_id, "width": width, "height": height})
        for _, record in image.annotations:
            kept = {name: record.get(name) for name in ("id", "category_id", "bbox")}
            annotations.append({**kept, "image_id": image_id, "iscrowd": int(bool(record.get("iscrowd")))})
    categories = [{"id": number, "name": name} for number, name in coco.categories.items()]
    with atomic_text(folder / OBJECTS) as file:
        json.dump({"images": images, "annotations": annotations, "categories": categories}, file, ensure_ascii=False)
    return len(images)


def image_key(image_id: object) -> str:
    """What the ids of one image have in common: files write COCO's as numbers, as digits and with zeros before them.

    >>> image_key(139) == image_key("000000000139"), image_key("cat 7")
    (True, 'cat 7')
    """
    text = str(image_id)
    return str(int(text)) if text.isdecimal() else text
