"""Data to evaluate on: a folder in the official layouts, a prepared one, or scenes composed for the occasion.

How a folder is laid out decides what a task measures on it, see `evaluation.tasks.task_for`:

 - "prepared": rows that `scripts/prepare_dataset.py` made;
 - "flickr30k_entities": Sentences/, Annotations/ and images/, with lists of splits such as val.txt;
 - "coco": instances_SPLIT.json, perhaps captions_SPLIT.json, and images/: objects with the names of their categories;
 - "scenes": what `python -m pixelllm_hf.data.scenes` writes, and files of that kind.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from pixelllm_hf.data.coco_files import CocoFile
from pixelllm_hf.data.prepared_folder import STATE
from pixelllm_hf.data.scenes import ObjectLibrary, write_scenes
from pixelllm_hf.data.scenes.library import pluralise
from pixelllm_hf.evaluation.object_names import ObjectNames
from pixelllm_hf.evaluation.pictures import EvaluationDataError
from pixelllm_hf.evaluation.trained_names import TrainedNames

# Training uses small seeds. These two series are for choosing (during training) and for reporting.
VALIDATION_SEED = 800_000_000
HELD_OUT_SEED = 900_000_000

INSTANCES = "instances.json"
Layout = Literal["prepared", "flickr30k_entities", "coco", "scenes"]


@dataclass(frozen=True)
class DataFolder:
    """Where a task finds its files.

    folder: has `images/` and annotation files in the official layouts, at its top or in `refcoco/`, `visual_genome/`;
    or is one that `scripts/prepare_dataset.py` made for the task.
    images: the pictures, if they are elsewhere. split: of files that hold several.
    trained: the names that the model was trained on, where the data has others.
    """

    folder: Path
    images: Path | None = None
    split: str | None = None
    trained: TrainedNames | None = None

    def __post_init__(self) -> None:
        if self.is_prepared and self.images is not None:
            raise EvaluationDataError(f"{self.folder} was prepared and holds its pictures; leave the images out.")

    @property
    def is_prepared(self) -> bool:
        """Whether it holds parquet shards of rows instead of annotation files."""
        return (self.folder / STATE).is_file()

    @cached_property
    def layout(self) -> Layout:
        """How the folder is laid out, by what is in it."""
        if self.is_prepared:
            return "prepared"
        if (self.folder / "Sentences").is_dir() or (self.folder / "Annotations").is_dir():
            return "flickr30k_entities"
        return "coco" if self._coco_splits("instances") or self._coco_splits("captions") else "scenes"

    def coco_file(self, kind: Literal["instances", "captions"]) -> Path:
        """KIND_SPLIT.json of a folder of the layout "coco"."""
        splits = self._coco_splits(kind)
        if self.split not in splits and not (self.split is None and len(splits) == 1):
            there = ", ".join(f"{kind}_{name}.json" for name in splits) or f"no {kind}_SPLIT.json at all"
            raise EvaluationDataError(
                f"{self.folder} has {there}, but the split is {self.split!r}. Name a split whose file is there."
            )
        return self.folder / f"{kind}_{self.split or splits[0]}.json"

    def _coco_splits(self, kind: str) -> list[str]:
        return sorted(path.stem.removeprefix(f"{kind}_") for path in self.folder.glob(f"{kind}_*.json"))

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
                "wrote, one with these files in their official layout and the pictures in images/, or one that "
                "scripts/prepare_dataset.py made for the task (with --instances, where names of objects are needed)."
            )
        return found

    @cached_property
    def categories(self) -> tuple[str, ...] | None:
        """The categories of `instances.json`. None without that file."""
        instances = self.find(INSTANCES)
        if instances is None:
            return None
        coco = CocoFile.read(instances)
        if coco.bad_categories:
            raise coco.bad_categories[0]
        return tuple(coco.categories.values())

    @cached_property
    def object_names(self) -> ObjectNames | None:
        """The names that captions may use: the trained ones if they are given, else the categories."""
        if self.trained is not None:
            return object_names(sorted(self.trained.names))
        return None if self.categories is None else object_names(self.categories)

    def counted_as(self, name: str) -> str:
        """The name that an object of category `name` counts under; its own where that is no trained one."""
        return name if self.trained is None else self.trained.counted_as(name) or name

    def is_trained(self, name: str) -> bool | None:
        """Whether an object of category `name` counts under a trained name; None if these are not given."""
        return None if self.trained is None else self.trained.counted_as(name) is not None


@contextmanager
def composed_folder(
    number: int, seed: int, *, objects: str | Path | None = None, backgrounds: str | Path | None = None
) -> Iterator[Path]:
    """A temporary folder with `number` scenes of the series `seed`, just as `pixelllm_hf.data.scenes` writes them."""
    with tempfile.TemporaryDirectory(prefix="pixelllm-scenes-") as temporary:
        yield write_scenes(
            Path(temporary) / "scenes", number, seed, objects=objects, backgrounds=backgrounds, split="test"
        )


def object_names(categories: Sequence[str]) -> ObjectNames:
    """Finds the names of these categories in captions, in the singular and the plural."""
    builtin = ObjectLibrary.builtin()
    return ObjectNames({n: builtin.plural(n) if n in builtin.names else pluralise(n) for n in categories})
