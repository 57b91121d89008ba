"""Scenes to evaluate on: a folder in the official layouts, or one composed for the occasion."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from pixelllm_hf.data import read_coco_instances
from pixelllm_hf.data.scenes import ObjectLibrary, write_scenes
from pixelllm_hf.data.scenes.library import pluralise
from pixelllm_hf.evaluation.object_names import ObjectNames

# Training uses small seeds. These two series are for choosing (during training) and for reporting.
VALIDATION_SEED = 800_000_000
HELD_OUT_SEED = 900_000_000

INSTANCES = "instances.json"
NARRATIVES = "localized_narratives.jsonl"


@dataclass(frozen=True, eq=False)
class EvaluationScene:
    """A picture and what is in it. boxes (O,4) xyxy pixels of the picture, one per entry of `names`."""

    image_id: str
    image: Image.Image
    names: tuple[str, ...]
    boxes: np.ndarray


@contextmanager
def composed_folder(
    number: int, seed: int, *, objects: str | Path | None = None, backgrounds: str | Path | None = None
) -> Iterator[Path]:
    """A temporary folder with `number` scenes of the series `seed`, just as `pixelllm_hf.data.scenes` writes them."""
    with tempfile.TemporaryDirectory(prefix="pixelllm-scenes-") as temporary:
        yield write_scenes(
            Path(temporary) / "scenes", number, seed, objects=objects, backgrounds=backgrounds, split="test"
        )


def read_scenes(folder: str | Path) -> tuple[list[EvaluationScene], ObjectNames]:
    """The scenes of a folder with `instances.json` and `images/`, and the names that its captions may use."""
    folder = Path(folder)
    if not (folder / INSTANCES).is_file():
        raise FileNotFoundError(
            f"{folder} has no {INSTANCES}. Give a folder that `python -m pixelllm_hf.data.scenes` wrote, or one with "
            f"COCO instances in {INSTANCES} and pictures in images/."
        )
    dataset = read_coco_instances(folder / INSTANCES, folder / "images", streaming=True)
    categories = dataset.features["objects"].feature["category"].names
    builtin = ObjectLibrary.builtin()
    plurals = {name: builtin.plural(name) if name in builtin.names else pluralise(name) for name in categories}
    scenes = [
        EvaluationScene(
            image_id=row["image_id"],
            image=row["image"],
            names=tuple(categories[obj["category"]] for obj in row["objects"]),
            boxes=np.array([obj["box"] for obj in row["objects"]], np.float64).reshape(-1, 4),
        )
        for row in dataset
    ]
    if not scenes:
        raise ValueError(f"{folder / INSTANCES} lists no pictures, so there is nothing to evaluate.")
    return scenes, ObjectNames(plurals)
