"""What is where, as class numbers on a grid: free supervision for the vision towers from COCO-style instances."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from pixelllm_hf.files import atomic_path
from pixelllm_hf.processing.mask_codec import segmentation_to_mask
from pixelllm_hf.training.recipe_values import ConfigError

IGNORED = -1
BACKGROUND = 0
LABEL_VERSION = 2


@dataclass(frozen=True)
class ImageLabels:
    """labels (N, G, G) int16: 0 background, i + 1 for `class_names[i]`, -1 beyond the image; `attributes` likewise
    by attribute (0 where an object does not have it). boxes (N, 4, G, G) int16: the box of the object that is there,
    xyxy canvas pixels, anything where there is none. `image_files` are the images, in order.
    """

    labels: np.ndarray
    boxes: np.ndarray
    class_names: list[str]
    image_files: list[Path]
    attributes: dict[str, np.ndarray]
    attribute_names: dict[str, list[str]]

    def stacked(self) -> np.ndarray:
        """(N, 1 + attributes, G, G): labels, then attributes, as `PatchHeads` takes them."""
        return np.stack([self.labels, *self.attributes.values()], axis=1)


def image_labels(
    instances_file: str | Path, images_dir: str | Path, cache_dir: str | Path, *, canvas: int, cells: int
) -> ImageLabels:
    """The labels of every image of a COCO instances file, `cells` x `cells` over the canvas, cached by content.

    A cell has the class of the object that covers its centre; of overlapping objects, the smallest.
    """
    raw = _content(instances_file)
    key = hashlib.sha256(raw + f"{LABEL_VERSION} {canvas} {cells}".encode()).hexdigest()[:16]
    file = Path(cache_dir) / f"image-labels-{cells}-{key}.npz"
    if not file.is_file():
        with not_coco(instances_file):
            _build(json.loads(raw), file, canvas, cells)
    try:
        with np.load(file) as stored:
            info = json.loads(str(stored["info"]))
            return ImageLabels(
                labels=stored["labels"],
                boxes=stored["boxes"],
                class_names=info["class_names"],
                image_files=[Path(images_dir) / name for name in info["file_names"]],
                attributes={name: stored[f"attribute_{name}"] for name in info["attribute_names"]},
                attribute_names=info["attribute_names"],
            )
    except (OSError, ValueError, KeyError, BadZipFile) as error:
        raise ConfigError(f"The cache {str(file)!r} is damaged ({error}). Delete it; the next run makes it.") from error


def read_instances(file: str | Path) -> dict[str, Any]:
    """A COCO instances file; `ConfigError` if it cannot be read."""
    with not_coco(file):
        return dict(json.loads(_content(file)))


def _content(file: str | Path) -> bytes:
    try:
        return Path(file).read_bytes()
    except (OSError, ValueError) as error:
        raise ConfigError(f"The instances file {str(file)!r} cannot be read: {error}.") from error


@contextmanager
def not_coco(file: str | Path) -> Iterator[None]:
    """What a file with other contents than COCO's leads to is a `ConfigError`."""
    try:
        yield
    except ConfigError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError, RecursionError) as error:
        told = f"{type(error).__name__}: {error}"
        raise ConfigError(f"The instances file {str(file)!r} is not as COCO's are ({told}). Correct it.") from error


def cell_centres(size_hw: tuple[int, int], cells: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of an image of size_hw in which the centres of `cells` x `cells` over its canvas lie.

    >>> [part.tolist() for part in cell_centres((20, 40), cells=4)]
    [[5, 15], [5, 15, 25, 35]]
    """
    centres = (np.arange(cells) + 0.5) * (max(size_hw) / cells)
    return centres[centres < size_hw[0]].astype(int), centres[centres < size_hw[1]].astype(int)


def _build(coco: dict[str, Any], file: Path, canvas: int, cells: int) -> None:
    categories = sorted(coco["categories"], key=lambda c: c["id"])
    class_of = {c["id"]: i + 1 for i, c in enumerate(categories)}
    per_image: dict[Any, list[dict[str, Any]]] = {image["id"]: [] for image in coco["images"]}
    values: dict[str, set[str]] = {}
    for annotation in coco["annotations"]:
        per_image[annotation["image_id"]].append(annotation)
        for name, value in (annotation.get("attributes") or {}).items():
            if isinstance(value, str):
                values.setdefault(name, set()).add(value)
    attribute_names = {name: sorted(found) for name, found in sorted(values.items())}
    grids = [
        _label_image(image, per_image[image["id"]], class_of, attribute_names, canvas, cells)
        for image in coco["images"]
    ]
    stacked = np.stack(grids) if grids else np.zeros((0, 5 + len(attribute_names), cells, cells), np.int16)
    info = {
        "class_names": [c["name"] for c in categories],
        "file_names": [image["file_name"] for image in coco["images"]],
        "attribute_names": attribute_names,
    }
    arrays = {f"attribute_{name}": stacked[:, 5 + i] for i, name in enumerate(attribute_names)}
    file.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(file) as temporary:
        np.savez(temporary, labels=stacked[:, 0], boxes=stacked[:, 1:5], info=np.array(json.dumps(info)), **arrays)  # type: ignore[arg-type]


def _label_image(
    image: dict[str, Any],
    annotations: list[dict[str, Any]],
    class_of: dict[int, int],
    attribute_names: dict[str, list[str]],
    canvas: int,
    cells: int,
) -> np.ndarray:
    """(1 + 4 + attributes, G, G) int16 of one image: class, box, attributes."""
    height, width = image["height"], image["width"]
    scale = max(height, width) / canvas  # original pixels per canvas pixel
    rows, columns = cell_centres((height, width), cells)
    grid = np.full((5 + len(attribute_names), cells, cells), IGNORED, np.int16)
    inside = grid[:, : len(rows), : len(columns)]
    inside[:] = BACKGROUND
    for annotation in sorted(annotations, key=lambda a: -float(a.get("area", 0))):
        covered = segmentation_to_mask(annotation["segmentation"], (height, width))[np.ix_(rows, columns)]
        inside[0][covered] = class_of[annotation["category_id"]]
        x, y, w, h = annotation["bbox"]
        inside[1:5, covered] = np.round(np.array([[x], [y], [x + w], [y + h]]) / scale)
        for i, (name, known) in enumerate(attribute_names.items(), 5):
            value = (annotation.get("attributes") or {}).get(name)
            inside[i][covered] = known.index(value) + 1 if isinstance(value, str) else 0
    return grid
