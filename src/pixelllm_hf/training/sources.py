"""The data sources of a recipe: read, grouped by image, with cached pixels, mixed into numbered batches."""

from __future__ import annotations

import glob
import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pixelllm_hf.data.coco_captions import read_coco_captions
from pixelllm_hf.data.collator import GroundedCollator
from pixelllm_hf.data.grounded_examples import ReadReport
from pixelllm_hf.data.image_transforms import Augmentation
from pixelllm_hf.data.localized_narratives import read_localized_narratives
from pixelllm_hf.data.mixing import GroundedBatches, undecoded
from pixelllm_hf.data.referring_expressions import read_referring_expressions
from pixelllm_hf.data.visual_genome import read_visual_genome
from pixelllm_hf.training.canvas_reader import CanvasReader
from pixelllm_hf.training.checkpointing import atomic_folder
from pixelllm_hf.training.config import ConfigError
from pixelllm_hf.training.pixel_cache import PixelCache, open_pixel_cache

FORMATS = ("localized_narratives", "coco_captions", "referring_expressions", "visual_genome")


@dataclass
class SourceConfig:
    """One data set.

    Args:
        format: `localized_narratives`, `coco_captions`, `referring_expressions` or `visual_genome`.
        annotations: the annotation file (for Localized Narratives also a list or a pattern).
        images: folder of the image files.
        instances: COCO instances file, which referring expressions point into.
        image_data: Visual Genome's image_data.json.
        split: of the referring expressions; None takes all.
        weight: relative number of batches from this source; a batch never mixes sources.
        max_prompts: captions, expressions or regions taken per image and batch.
        align: `text` or `rank` (the reference), how a narrative's words find their utterances.
        scale, flip: random size of the longer side in canvases, and chance of mirroring.
        object_points: `last` or `all`, the tokens that learn an object's box.
        region_points: region phrases learn their object's box too.
        contexts: prompt strings to draw from; None takes the task's own.
        group_by_image: rows of the same image become one row with all their prompts.
        on_error: `raise` or `skip` for records that cannot be used.
        limit: use only the first so many images.
    """

    format: str
    annotations: str | list[str]
    images: str
    name: str = ""
    instances: str | None = None
    image_data: str | None = None
    split: str | None = None
    weight: float = 1.0
    max_prompts: int = 1
    align: str = "text"
    scale: tuple[float, float] = (1.0, 1.0)
    flip: float = 0.0
    object_points: str = "last"
    region_points: bool = False
    contexts: list[str] | None = None
    group_by_image: bool = True
    on_error: str = "skip"
    limit: int | None = None

    def __post_init__(self) -> None:
        if self.format not in FORMATS:
            raise ConfigError(f"format must be one of {', '.join(FORMATS)}, but is {self.format!r}.")
        needed = {"referring_expressions": "instances", "visual_genome": "image_data"}.get(self.format)
        if needed and getattr(self, needed) is None:
            raise ConfigError(f"A source of format {self.format!r} needs {needed!r}: the file it refers to.")
        self.name = self.name or self.format


@dataclass
class DataConfig:
    """All data of a run.

    Args:
        sources: to train on; held_out: the same for the loss during training (optional).
        batch_size: images per batch and process.
        max_text_tokens, max_context_tokens: longest target and longest context, special tokens included.
        cache_dir: where canvas-sized pixels of sources without random scale are cached; None decodes every time.
    """

    sources: list[SourceConfig]
    held_out: list[SourceConfig] = field(default_factory=list)
    batch_size: int = 16
    max_text_tokens: int = 128
    max_context_tokens: int = 32
    cache_dir: str | None = "runs/cache"
    cache_threads: int | None = None


def read_source(source: SourceConfig, report: ReadReport | None = None) -> Any:
    """The rows of one source, as its reader gives them."""
    common: dict[str, Any] = {"on_error": source.on_error, "report": report}
    annotations = source.annotations
    try:
        if source.format == "localized_narratives":
            return read_localized_narratives(annotations, source.images, **common)
        if not isinstance(annotations, str):
            raise ConfigError(f"Source {source.name!r} takes one annotation file, but got {annotations!r}.")
        if source.format == "coco_captions":
            return read_coco_captions(annotations, source.images, **common)
        if source.format == "referring_expressions":
            return read_referring_expressions(
                annotations, source.instances or "", source.images, split=source.split, **common
            )
        return read_visual_genome(annotations, source.image_data or "", source.images, **common)
    except FileNotFoundError as error:
        raise ConfigError(f"Source {source.name!r}: {error}") from error


def read_source_cached(source: SourceConfig, cache_dir: str | None) -> tuple[Any, str]:
    """The rows of one source and what was kept and dropped; read once, then memory-mapped from the cache.

    The key holds the files' names, sizes and times, the reader's settings and the readers' code.
    """
    from datasets import load_from_disk

    from pixelllm_hf import data as readers

    if cache_dir is None:
        report = ReadReport()
        return read_source(source, report), report.summary()
    files = [source.annotations] if isinstance(source.annotations, str) else list(source.annotations)
    files = [found for file in files for found in (sorted(glob.glob(file)) or [file])]
    files += [file for file in (source.instances, source.image_data) if file]
    stamps = [(os.path.abspath(f), s.st_size, s.st_mtime_ns) for f in files if (s := _stat(f))]
    code = [file.read_text(encoding="utf-8") for file in sorted(Path(readers.__path__[0]).glob("*.py"))]
    settings = [source.format, os.path.abspath(source.images), source.split, source.on_error]
    key = hashlib.sha256(json.dumps([stamps, settings, code]).encode()).hexdigest()[:16]
    folder = Path(cache_dir) / f"rows-{source.format}-{key}"
    if not folder.is_dir():
        report = ReadReport()
        rows = undecoded(read_source(source, report))
        # As paths: saving a `datasets` image would copy the file into every cache.
        paths = [image["path"] for image in rows["image"]]
        rows = rows.remove_columns("image").add_column("image", paths)
        with atomic_folder(folder) as temporary:
            rows.save_to_disk(str(temporary))
            (temporary / "kept.txt").write_text(report.summary(), encoding="utf-8")
    return load_from_disk(str(folder)), (folder / "kept.txt").read_text(encoding="utf-8")


def _stat(file: str) -> os.stat_result | None:
    try:
        return os.stat(file)
    except OSError:
        return None  # the reader says what is missing


class SourceRows:
    """The rows of one source by image, marked with its name and with pixels from the cache where there is one."""

    def __init__(self, name: str, rows: Any, *, group_by_image: bool, limit: int | None = None):
        self.name, self.rows = name, undecoded(rows)
        self._paths = [_path(image) for image in self.rows["image"]]
        groups: dict[str, list[int]] = {}
        for index, image_id in enumerate(self.rows["image_id"]):
            groups.setdefault(image_id if group_by_image else str(index), []).append(index)
        self.groups = list(groups.values())[:limit]
        self.cache: PixelCache | None = None

    def __len__(self) -> int:
        return len(self.groups)

    def image_files(self) -> list[str]:
        """The file of every image; empty where images are not files."""
        files = [self._paths[group[0]] or "" for group in self.groups]
        return files if all(os.path.isfile(file) for file in files) else []

    def __getitem__(self, index: int) -> dict[str, Any]:
        first, *others = (self.rows[i] for i in self.groups[index])
        row = {**first, "source": self.name}
        if others:
            row["prompts"] = [prompt for member in (first, *others) for prompt in member["prompts"]]
        if self.cache is not None:
            at = self.cache.row(self._paths[self.groups[index][0]] or "")
            if at is not None and self.cache.sizes_hw[at, 0]:
                height, width = self.cache.sizes_hw[at]
                row["image"] = Image.fromarray(np.array(self.cache.pixels[at, :height, :width]))
        return row


def _path(image: Any) -> str | None:
    return image if isinstance(image, str) else (image or {}).get("path")


class _BySource:
    """Each source's own collator, picked by the mark that `SourceRows` leaves."""

    def __init__(self, collators: Mapping[str, Callable[..., dict[str, Any]]]):
        self.collators = dict(collators)

    def __call__(self, rows: Sequence[dict[str, Any]], generators: Sequence[np.random.Generator]) -> dict[str, Any]:
        source = rows[0]["source"]
        return {**self.collators[source](rows, generators), "source": source}


def grounded_batches(
    sources: Sequence[SourceConfig],
    data: DataConfig,
    *,
    processor: Any,
    seed: int,
    notes: list[str] | None = None,
) -> GroundedBatches:
    """Numbered batches of the mixed sources. `notes` receives a line per source: what was kept and dropped."""
    names = [source.name for source in sources]
    if len(set(names)) != len(names):
        raise ConfigError(f"Sources need different names, but these are {names}; give each a `name`.")
    rows, collators = {}, {}
    for source in sources:
        dataset, kept = read_source_cached(source, data.cache_dir)
        own = SourceRows(source.name, dataset, group_by_image=source.group_by_image, limit=source.limit)
        if not len(own):
            raise ConfigError(f"Source {source.name!r} has no usable record: {kept}.")
        images = processor.image_processor
        cacheable = tuple(source.scale) == (1.0, 1.0) and images.antialias
        files = own.image_files() if data.cache_dir and cacheable else []
        if files:
            own.cache = open_pixel_cache(
                files,
                data.cache_dir or "",
                canvas=images.canvas,
                read=CanvasReader(images.canvas),
                threads=data.cache_threads,
            )
        if notes is not None:
            notes.append(f"{source.name}: {len(own)} images, {kept}")
        rows[source.name] = own
        task = own[0]["task"]
        collators[source.name] = GroundedCollator.for_processor(
            processor,
            max_prompts=source.max_prompts,
            max_text_tokens=data.max_text_tokens,
            max_context_tokens=data.max_context_tokens,
            align=source.align,  # type: ignore[arg-type]
            augmentation={task: Augmentation(source.scale, source.flip)},
            contexts={task: source.contexts} if source.contexts else None,
            object_points=source.object_points,  # type: ignore[arg-type]
            region_points=source.region_points,
        )
    weights = {source.name: source.weight for source in sources}
    return GroundedBatches(rows, _BySource(collators), batch_size=data.batch_size, seed=seed, weights=weights)
