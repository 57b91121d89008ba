"""COCO instances of images that nobody has annotated, as a detector sees them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from pixelllm_hf.evaluation.category_names import SYNONYMS
from pixelllm_hf.evaluation.object_detector import Detection
from pixelllm_hf.processing.image_reading import read_image, readable_suffixes


def labelled(images: Iterable[Path], detect: Callable[[Image.Image], Sequence[Detection]]) -> dict[str, Any]:
    """Annotations of these image files in COCO's layout: boxes xywh in pixels, and the detector's `score`. Every image
    is listed, also where nothing is found."""
    number = {name: i for i, name in enumerate(SYNONYMS, 1)}
    content: dict[str, Any] = {"images": [], "annotations": []}
    content["categories"] = [{"id": i, "name": name} for name, i in number.items()]
    for image_id, path in enumerate(images, 1):
        image = read_image(path).pixels
        width, height = image.size
        content["images"].append({"id": image_id, "file_name": path.name, "width": width, "height": height})
        for found in detect(image):
            sides = (width, height, width, height)
            x1, y1, x2, y2 = (round(value * side, 1) for value, side in zip(found.box, sides, strict=True))
            if x2 - x1 < 1 or y2 - y1 < 1:
                continue  # nearly all of it lay beyond the image
            content["annotations"].append(
                {
                    "id": len(content["annotations"]) + 1,
                    "image_id": image_id,
                    "category_id": number[found.name],
                    "bbox": [x1, y1, round(x2 - x1, 1), round(y2 - y1, 1)],
                    "area": round((x2 - x1) * (y2 - y1), 1),
                    "iscrowd": 0,
                    "score": round(found.score, 3),
                }
            )
    return content


def image_files(folder: Path, names: Sequence[str] | None) -> list[Path]:
    """The image files of a folder by name; with names only those whose name or stem is among them."""
    chosen = None if names is None else set(names)
    files = (path for path in sorted(folder.iterdir()) if path.suffix.lower() in readable_suffixes())
    return [path for path in files if chosen is None or path.name in chosen or path.stem in chosen]
