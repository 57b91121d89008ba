"""Scenes to evaluate on: a folder in the official layouts, or one composed for the occasion."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import datasets
import numpy as np
from PIL import Image

from pixelllm_hf.data import read_coco_instances
from pixelllm_hf.data.grounded_examples import load_json
from pixelllm_hf.data.scenes import ObjectLibrary, write_scenes
from pixelllm_hf.data.scenes.library import pluralise
from pixelllm_hf.evaluation.object_names import ObjectNames

# Training uses small seeds. These two series are for choosing (during training) and for reporting.
VALIDATION_SEED = 800_000_000
HELD_OUT_SEED = 900_000_000

INSTANCES = "instances.json"
NARRATIVES = "localized_narratives.jsonl"


class EvaluationDataError(ValueError):
    """Annotations that nothing can be measured on."""


@dataclass(frozen=True, eq=False)
class Picture:
    """One picture to ask about; what is known of it is in the subclasses."""

    image_id: str
    path: Path

    def open(self) -> Image.Image:
        """Decoded in full and not kept: a validation set may be large."""
        with Image.open(self.path) as image:
            image.load()
        return image


@dataclass(frozen=True, eq=False)
class EvaluationScene(Picture):
    """A picture and what is in it. boxes (O,4) xyxy pixels of the picture, one per entry of `names`."""

    names: tuple[str, ...]
    boxes: np.ndarray


@dataclass(frozen=True)
class DataFolder:
    """Where a task finds its files.

    folder: has `images/` and annotation files in the official layouts, at its top or in `refcoco/`, `visual_genome/`.
    images: the pictures, if they are elsewhere. split: of files that hold several.
    """

    folder: Path
    images: Path | None = None
    split: str | None = None

    @property
    def pictures(self) -> Path:
        return self.images or self.folder / "images"

    def find(self, *names: str) -> Path | None:
        """The first of the files that is there."""
        return next((self.folder / name for name in names if (self.folder / name).is_file()), None)

    def need(self, *names: str) -> Path:
        """The first of the files that is there; none raises `FileNotFoundError`."""
        found = self.find(*names)
        if found is None:
            raise FileNotFoundError(
                f"{self.folder} has no {' or '.join(names)}. Give a folder that `python -m pixelllm_hf.data.scenes` "
                "wrote, or one with these files in their official layout and the pictures in images/."
            )
        return found

    @cached_property
    def object_names(self) -> ObjectNames | None:
        """The names that captions may use: the categories of `instances.json`. None without that file."""
        instances = self.find(INSTANCES)
        if instances is None:
            return None
        return object_names([category["name"] for category in load_json(instances, dict).get("categories", [])])


@contextmanager
def composed_folder(
    number: int, seed: int, *, objects: str | Path | None = None, backgrounds: str | Path | None = None
) -> Iterator[Path]:
    """A temporary folder with `number` scenes of the series `seed`, just as `pixelllm_hf.data.scenes` writes them."""
    with tempfile.TemporaryDirectory(prefix="pixelllm-scenes-") as temporary:
        yield write_scenes(
            Path(temporary) / "scenes", number, seed, objects=objects, backgrounds=backgrounds, split="test"
        )


def read_scenes(folder: str | Path | DataFolder) -> tuple[list[EvaluationScene], ObjectNames]:
    """The scenes of a folder with `instances.json` and `images/`, and the names that its captions may use."""
    data = folder if isinstance(folder, DataFolder) else DataFolder(Path(folder))
    instances = data.need(INSTANCES)
    dataset = read_coco_instances(instances, data.pictures, streaming=True)
    categories = dataset.features["objects"].feature["category"].names
    scenes = [
        EvaluationScene(
            image_id=row["image_id"],
            path=Path(row["image"]["path"]),
            names=tuple(categories[obj["category"]] for obj in row["objects"]),
            boxes=np.array([obj["box"] for obj in row["objects"]], np.float64).reshape(-1, 4),
        )
        for row in dataset.cast_column("image", datasets.Image(decode=False))
    ]
    if not scenes:
        raise EvaluationDataError(f"{instances} lists no pictures, so there is nothing to evaluate.")
    return scenes, object_names(categories)


def object_names(categories: Sequence[str]) -> ObjectNames:
    """Finds the names of these categories in captions, in the singular and the plural."""
    builtin = ObjectLibrary.builtin()
    return ObjectNames({n: builtin.plural(n) if n in builtin.names else pluralise(n) for n in categories})
