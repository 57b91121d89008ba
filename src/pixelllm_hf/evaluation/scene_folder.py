"""Data to evaluate on: annotations in any layout that training reads, a prepared folder, or scenes composed anew.

What a folder holds is known by what lies in it, or is said by the name of its format; it decides what a task measures
(see `evaluation.tasks.task_for`):

 - Sentences/, Annotations/ and images/, with lists of splits such as val.txt: Flickr30k Entities;
 - instances_SPLIT.json, perhaps captions_SPLIT.json, and images/: COCO's objects with the names of their categories;
 - preparation.json and shards: rows that `scripts/prepare_dataset.py` made;
 - otherwise what `python -m pixelllm_hf.data.scenes` writes, and files of that kind.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pixelllm_hf.data.bad_records import ReadReport
from pixelllm_hf.data.coco_files import CocoFile
from pixelllm_hf.data.formats import FORMATS, read_format
from pixelllm_hf.data.mixing import undecoded
from pixelllm_hf.data.prepared_folder import STATE, PreparedFolder, read_prepared
from pixelllm_hf.data.referring_expressions import read_refs
from pixelllm_hf.data.scenes import ObjectLibrary, write_scenes
from pixelllm_hf.data.scenes.library import pluralise
from pixelllm_hf.evaluation.images import EvaluationDataError
from pixelllm_hf.evaluation.object_names import ObjectNames
from pixelllm_hf.evaluation.seen_classes import SeenClasses

# Training uses small seeds. These two series are for choosing (during training) and for reporting.
VALIDATION_SEED = 800_000_000
HELD_OUT_SEED = 900_000_000

INSTANCES = "instances.json"
NARRATIVES = "localized_narratives.jsonl"
REFS = ("refs.json", "refs(unc).p", "refs(umd).p", "refs(google).p")
REGIONS, IMAGE_DATA = "region_descriptions.json", "image_data.json"
DENSE = ("dense.json", "test.json", "grit_test.json")  # GRiT's layout: COCO instances with captions
Kind = Literal["texts", "phrases", "categories"]


@dataclass(frozen=True)
class Source:
    """What `read_format` is told: a format, its annotations, the second file if it has one, and where the images are
    if not where those of other tasks are."""

    format: str
    annotations: Path
    companion: Path | None = None
    images: Path | None = None


@dataclass(frozen=True)
class DataFolder:
    """Where a task finds its files.

    folder: has `images/` and annotation files in the official layouts, at its top or in `refcoco/`, `visual_genome/`;
    or is one that `scripts/prepare_dataset.py` made for the task. With a format: its annotations, a file or a folder.
    images: the images, if they are elsewhere. split: of data that has several.
    trained: the names that the model was trained on, where the data has others.
    format, companion: a name of `FORMATS` and the second file that this format needs, if any.
    """

    folder: Path
    images: Path | None = None
    split: str | None = None
    trained: SeenClasses | None = None
    format: str | None = None
    companion: Path | None = None

    def __post_init__(self) -> None:
        if self.is_prepared and self.images is not None:
            raise EvaluationDataError(f"{self.folder} was prepared and holds its images; leave the images out.")
        if self.format is not None and (self.format not in FORMATS or not FORMATS[self.format].needs_images):
            known = ", ".join(name for name, layout in FORMATS.items() if layout.needs_images)
            raise EvaluationDataError(f"the format must be one of {known}, but is {self.format!r}.")

    @property
    def is_prepared(self) -> bool:
        """Whether it holds parquet shards of rows instead of annotation files."""
        return self.format is None and (self.folder / STATE).is_file()

    @cached_property
    def kind(self) -> Kind:
        """What is known: texts, captions whose phrases have boxes, or objects with the names of categories."""
        name: Any = self.format
        if self.is_prepared:
            name = PreparedFolder.load(self.folder).settings.get("format")
        elif name is None and any((self.folder / part).is_dir() for part in ("Sentences", "Annotations")):
            name = "flickr30k_entities"
        elif name is None and any(self._coco_splits(kind) for kind in ("instances", "captions")):
            name = "coco_instances"
        if name == "flickr30k_entities":
            return "phrases"
        return "categories" if name in FORMATS and FORMATS[name].says == "categories" else "texts"

    def source(self, task: str) -> Source:
        """Where the rows of a task come from; a `FileNotFoundError` where the folder has nothing for it."""
        if self.format is not None:
            return Source(self.format, self.folder, self.companion)
        if self.kind == "phrases":
            return Source("flickr30k_entities", self.folder)
        if self.kind == "categories":
            if task == "caption":
                return Source("coco_captions", self.coco_file("captions"))
            return Source("coco_instances", self.coco_file("instances"))
        if task == "trace":
            return Source("localized_narratives", self.need(NARRATIVES))
        if task == "caption":
            return Source("coco_captions", self.need("captions.json"))
        if task == "muse":
            names = [f"muse_{self.split}.json"] if self.split else ["muse.json", "muse_val.json"]
            return Source("muse", self.need(*(f"{folder}{name}" for folder in ("muse/", "") for name in names)))
        if task == "reasonseg":
            return Source("reason_seg", self.folder, images=self.images or self.folder)
        if task in ("refer", "segment", "multirefer"):
            refs = self.need(*(f"{folder}{name}" for folder in ("refcoco/", "") for name in REFS))
            return Source("referring_expressions", refs, self.need(f"refcoco/{INSTANCES}", INSTANCES))
        grit = self.find(*(f"{folder}{name}" for folder in ("visual_genome/", "") for name in DENSE))
        if grit is not None:
            return Source("grit", grit)
        regions = self.need(f"visual_genome/{REGIONS}", REGIONS)
        return Source("visual_genome", regions, regions.parent / IMAGE_DATA)

    def rows(self, task: str) -> Any:
        """The rows of a task as training reads them, with all that official evaluation counts; images not decoded.

        A bad record is an error that names it: nothing is skipped.
        """
        return self.rows_of_source(task, task)

    def rows_of_source(self, task: str, read_as: str) -> Any:
        """The rows that lie where those of `task` are looked for, read as another task."""
        if self.is_prepared:
            return undecoded(read_prepared(self.folder, task=read_as, split=self.split, for_evaluation=True))
        return undecoded(self._read(self.source(task), read_as, for_evaluation=True, streaming=True))

    def scene_rows(self) -> Any:
        """The rows of the images whose objects are all known."""
        if self.is_prepared or self.format is not None:
            return self.rows("trace")
        return undecoded(
            self._read(Source("coco_instances", self.need(INSTANCES)), "dense", for_evaluation=True, streaming=True)
        )

    def narratives(self) -> Any:
        """The rows of written narratives, with their images; None if there are none."""
        if self.is_prepared:
            return read_prepared(self.folder, task="trace", split=self.split, for_evaluation=True)
        if self.format is None and self.find(NARRATIVES) is None:
            return None
        return self._read(self.source("trace"), "trace")

    def _read(self, source: Source, task: str, **options: Any) -> Any:
        layout = FORMATS[source.format]
        if task not in layout.tasks:
            raise EvaluationDataError(
                f"{source.annotations} is read as {source.format}, which serves {', '.join(layout.tasks)}, and not "
                f"{task!r}."
            )
        if layout.companion and layout.companion_required and source.companion is None:
            raise EvaluationDataError(f"the format {source.format!r} needs its {layout.companion!r}: give --companion.")
        if source.format == "referring_expressions" and self.split is None:
            _refuse_several_splits(source.annotations)
        split = self.split if layout.has_splits else None
        return read_format(
            source.format,
            source.annotations,
            source.images or self.image_folder,
            task=task,
            split=split,
            companion=source.companion,
            **options,
        )

    def coco_file(self, kind: Literal["instances", "captions"]) -> Path:
        """KIND_SPLIT.json of a folder in COCO's layout."""
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
    def image_folder(self) -> Path:
        return self.images or (self.folder if self.folder.is_dir() else self.folder.parent) / "images"

    def find(self, *names: str) -> Path | None:
        """The first of the files that is there."""
        return next((self.folder / name for name in names if (self.folder / name).is_file()), None)

    def need(self, *names: str) -> Path:
        """The first of the files that is there; none raises `FileNotFoundError`."""
        found = self.find(*names)
        if found is None:
            raise FileNotFoundError(
                f"{self.folder} has no {' or '.join(names)}. Give a folder that `python -m pixelllm_hf.data.scenes` "
                "wrote, one with these files in their official layout and the images in images/, one that "
                "scripts/prepare_dataset.py made for the task (with --instances, where names of objects are needed), "
                "or annotations in another layout with --format."
            )
        return found

    def objects_of(self, task: str) -> Path | None:
        """The file that lists the objects of the images that a task asks about, in COCO's layout."""
        if self.format is not None:
            which = FORMATS[self.format].instances
            return {"annotations": self.folder, "companion": self.companion, None: None}[which]
        if task in ("refer", "segment"):
            return self.find(f"refcoco/{INSTANCES}", INSTANCES)
        return self.find(INSTANCES)

    def need_objects(self) -> Path:
        """The file that lists the objects of all images."""
        return self.objects_of("trace") or self.need(INSTANCES)

    @cached_property
    def categories(self) -> tuple[str, ...] | None:
        """The categories of the images' objects. None where no file lists them."""
        instances = self.objects_of("trace")
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


def _refuse_several_splits(refs: Path) -> None:
    known = sorted({str(ref.get("split")) for _, ref in read_refs(refs, ReadReport(), "raise")})
    if len(known) > 1:
        raise EvaluationDataError(f"{refs} has the splits {', '.join(known)}; name one of them with --split.")


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
