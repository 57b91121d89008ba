"""The data sources of a recipe: read, grouped by image, with cached pixels, mixed into numbered batches."""

from __future__ import annotations

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
from pixelllm_hf.data.mixing import GroundedBatches
from pixelllm_hf.data.referring_expressions import read_referring_expressions
from pixelllm_hf.data.visual_genome import read_visual_genome
from pixelllm_hf.training.canvas_reader import CanvasReader
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


class SourceRows:
    """The rows of one source by image, marked with its name and with pixels from the cache where there is one."""

    def __init__(self, name: str, rows: Any, *, group_by_image: bool, limit: int | None = None):
        from pixelllm_hf.data.mixing import undecoded

        self.name, self.rows = name, undecoded(rows)
        groups: dict[str, list[int]] = {}
        for index, image_id in enumerate(self.rows["image_id"]):
            groups.setdefault(image_id if group_by_image else str(index), []).append(index)
        self.groups = list(groups.values())[:limit]
        self.cache: PixelCache | None = None

    def __len__(self) -> int:
        return len(self.groups)

    def image_files(self) -> list[str]:
        """The file of every image; empty where images are not files."""
        paths = [image["path"] if image else None for image in self.rows["image"]]
        files = [paths[group[0]] for group in self.groups]
        return [] if any(not file or not Path(file).is_file() for file in files) else list(files)

    def __getitem__(self, index: int) -> dict[str, Any]:
        first, *others = (self.rows[i] for i in self.groups[index])
        row = {**first, "source": self.name}
        if others:
            row["prompts"] = [prompt for member in (first, *others) for prompt in member["prompts"]]
        if self.cache is not None:
            at = self.cache.row(row["image"]["path"])
            if at is not None and self.cache.sizes_hw[at, 0]:
                height, width = self.cache.sizes_hw[at]
                row["image"] = Image.fromarray(np.array(self.cache.pixels[at, :height, :width]))
        return row


class _BySource:
    """Each source's own collator, picked by the mark that `SourceRows` leaves."""

    def __init__(self, collators: Mapping[str, Callable[..., dict[str, Any]]]):
        self.collators = dict(collators)

    def __call__(self, rows: Sequence[dict[str, Any]], generators: Sequence[np.random.Generator]) -> dict[str, Any]:
        return self.collators[rows[0]["source"]](rows, generators)


def grounded_batches(
    sources: Sequence[SourceConfig],
    data: DataConfig,
    *,
    tokenizer: Any,
    image_size: int,
    seed: int,
    contexts: Mapping[str, Sequence[str]] | None = None,
    notes: list[str] | None = None,
) -> GroundedBatches:
    """Numbered batches of the mixed sources. `notes` receives a line per source: what was kept and dropped."""
    names = [source.name for source in sources]
    if len(set(names)) != len(names):
        raise ConfigError(f"Sources need different names, but these are {names}; give each a `name`.")
    rows, collators = {}, {}
    for source in sources:
        report = ReadReport()
        own = SourceRows(
            source.name, read_source(source, report), group_by_image=source.group_by_image, limit=source.limit
        )
        if not len(own):
            raise ConfigError(f"Source {source.name!r} has no usable record: {report.summary()}.")
        random_size = tuple(source.scale) != (1.0, 1.0)
        files = own.image_files() if data.cache_dir and not random_size else []
        if files:
            own.cache = open_pixel_cache(
                files,
                data.cache_dir or "",
                canvas=image_size,
                read=CanvasReader(image_size),
                threads=data.cache_threads,
            )
        if notes is not None:
            notes.append(f"{source.name}: {len(own)} images, {report.summary()}")
        rows[source.name] = own
        task = own[0]["task"]
        collators[source.name] = GroundedCollator(
            tokenizer,
            image_size=image_size,
            max_prompts=source.max_prompts,
            max_text_tokens=data.max_text_tokens,
            max_context_tokens=data.max_context_tokens,
            align=source.align,  # type: ignore[arg-type]
            augmentation={task: Augmentation(tuple(source.scale), source.flip)},
            contexts={task: source.contexts} if source.contexts else dict(contexts or {}),
            object_points=source.object_points,  # type: ignore[arg-type]
            region_points=source.region_points,
        )
    weights = {source.name: source.weight for source in sources}
    return GroundedBatches(rows, _BySource(collators), batch_size=data.batch_size, seed=seed, weights=weights)
