"""Every annotation layout that can be read, by name: what it needs, which tasks it serves and who reads it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from pixelllm_hf.data.bad_records import OnError, ReadReport


@dataclass(frozen=True)
class Format:
    """A layout of annotation files.

    Args:
        module, reader: the function that reads it, called as reader(annotations, images, ...).
        tasks: what its rows can be read as; the first is the default.
        companion: the name of a second file or folder that the annotations point into, an argument of the reader.
        companion_required: there is no place to look for it unless it is given.
        has_splits: the reader takes `split`.
        many_files: the annotations may be a list or a pattern.
        needs_images: the rows do not have their images already.
        inside: the annotations are a folder; patterns of the files in it that are read.
        instances: which of its files lists the objects of the images in COCO's layout, if one does.
        for_evaluation: the reader takes `for_evaluation`: otherwise training leaves out nothing that evaluation counts.
        says: what the texts of its regions and expressions are.
    """

    module: str
    reader: str
    tasks: tuple[str, ...]
    companion: str | None = None
    companion_required: bool = True
    has_splits: bool = False
    many_files: bool = False
    needs_images: bool = True
    inside: tuple[str, ...] = ()
    instances: Literal["annotations", "companion"] | None = None
    for_evaluation: bool = False
    says: Literal["phrases", "categories"] = "phrases"

    def files(self, annotations: str | Path) -> list[Path]:
        """The annotation files in a folder that is in this layout."""
        return sorted(path for pattern in self.inside for path in Path(annotations).glob(pattern) if path.is_file())


_LABEL_MAPS = ("*.png", "*/*.png")

FORMATS: dict[str, Format] = {
    "ade20k": Format("label_maps", "read_ade20k", ("reason",), "classes", has_splits=True, inside=_LABEL_MAPS),
    "localized_narratives": Format("localized_narratives", "read_localized_narratives", ("trace",), many_files=True),
    "coco_captions": Format(
        "coco_captions",
        "read_coco_captions",
        ("caption",),
        "instances",
        companion_required=False,
        instances="companion",
        for_evaluation=True,
    ),
    "coco_instances": Format(
        "coco_objects",
        "read_coco_objects",
        ("region", "dense", "refer", "segment", "reason"),
        instances="annotations",
        for_evaluation=True,
        says="categories",
    ),
    "coco_panoptic": Format(
        "coco_objects",
        "read_coco_panoptic",
        ("region", "dense", "refer", "segment", "reason"),
        "segments",
        companion_required=False,
        says="categories",
    ),
    "coco_stuff": Format("label_maps", "read_coco_stuff", ("reason",), "classes", has_splits=True, inside=_LABEL_MAPS),
    "conversations": Format("conversations", "read_conversations", ("caption", "reason")),
    "flickr30k_entities": Format(
        "flickr30k_entities",
        "read_flickr30k_entities",
        ("caption", "trace", "refer", "region"),
        has_splits=True,
        inside=("*.txt", "Sentences/*.txt", "Annotations/*.xml"),
    ),
    "grit": Format("grit_captions", "read_grit_captions", ("dense", "region"), for_evaluation=True),
    "mapillary": Format("label_maps", "read_mapillary", ("reason",), "classes", has_splits=True, inside=_LABEL_MAPS),
    "mdetr": Format("grounding_json", "read_grounding_json", ("refer", "segment")),
    "muse": Format("muse", "read_muse", ("reason",)),
    "pascal_voc": Format(
        "pascal_voc",
        "read_pascal_voc",
        ("region", "dense", "refer"),
        has_splits=True,
        inside=("Annotations/*.xml", "ImageSets/Main/*.txt"),
        says="categories",
    ),
    "prepared": Format("prepared_folder", "read_prepared", (), has_splits=True, needs_images=False),
    "reason_seg": Format(
        "reason_seg",
        "read_reason_seg",
        ("reason",),
        "explanations",
        companion_required=False,
        has_splits=True,
        inside=("*.json", "*/*.json"),
    ),
    "referring_expressions": Format(
        "referring_expressions",
        "read_referring_expressions",
        ("refer", "segment", "reason"),
        "instances",
        has_splits=True,
        instances="companion",
        for_evaluation=True,
    ),
    "uninext": Format("grounding_json", "read_grounding_json", ("refer", "segment")),
    "visual_genome": Format(
        "visual_genome", "read_visual_genome", ("region", "dense"), "image_data", for_evaluation=True
    ),
}


def read_format(
    name: str,
    annotations: str | Path | Sequence[str | Path],
    images: str | Path | None = None,
    *,
    task: str | None = None,
    split: str | None = None,
    companion: str | Path | None = None,
    streaming: bool = False,
    on_error: OnError = "raise",
    check_images: bool = False,
    for_evaluation: bool = False,
    report: ReadReport | None = None,
) -> Any:
    """The grounded rows of annotation files in the layout `name`, read as `task` (the layout's first by default).

    companion: the second file that some layouts need, see `FORMATS[name].companion`.
    for_evaluation: keep what official evaluation counts though nothing can be learnt from it, such as boxes without
        area and images without regions.
    A prepared folder has its images, and its bad records are gone: `read_prepared` is the reader, without the options
    for them.
    """
    layout = check_format(name, annotations, task=task, companion=companion, split=split)
    if not layout.needs_images:
        return _reader(layout)(annotations, task=task, split=split, streaming=streaming, for_evaluation=for_evaluation)
    if not images:
        raise ValueError(f"format {name!r} needs the folder of its images, but got {images!r}.")
    options: dict[str, Any] = {"streaming": streaming, "on_error": on_error, "check_images": check_images}
    if layout.for_evaluation:
        options["for_evaluation"] = for_evaluation
    if len(layout.tasks) > 1:
        options["task"] = task or layout.tasks[0]
    if companion is not None and layout.companion:
        options[layout.companion] = companion
    if layout.has_splits:
        options["split"] = split
    return _reader(layout)(annotations, images=images, report=report, **options)


def check_format(
    name: str, annotations: object, *, task: str | None = None, companion: object = None, split: str | None = None
) -> Format:
    """The layout of this name, once what is asked of it is known to exist."""
    if name not in FORMATS:
        raise ValueError(f"format must be one of {', '.join(FORMATS)}, but is {name!r}.")
    layout = FORMATS[name]
    if not layout.many_files and not isinstance(annotations, str | Path):
        raise ValueError(f"format {name!r} takes one annotation file, but got {annotations!r}.")
    if task is not None and layout.tasks and task not in layout.tasks:
        raise ValueError(f"format {name!r} can be read as task {' or '.join(layout.tasks)}, but not as {task!r}.")
    if layout.companion and layout.companion_required and companion is None:
        raise ValueError(f"format {name!r} needs {layout.companion!r}: the file that its records refer to.")
    if companion is not None and not layout.companion:
        raise ValueError(f"format {name!r} has no second file, but was given {companion!r}. Leave it out.")
    if split is not None and not layout.has_splits:
        raise ValueError(f"format {name!r} has no splits, but split is {split!r}. Leave it out.")
    return layout


def _reader(layout: Format) -> Any:
    return getattr(import_module(f"pixelllm_hf.data.{layout.module}"), layout.reader)
