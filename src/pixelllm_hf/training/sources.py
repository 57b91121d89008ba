"""The data sources of a recipe: read, grouped by image, with cached pixels, mixed into numbered batches."""

from __future__ import annotations

import glob
import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from typing import Annotated, Any, Literal

import numpy as np
from PIL import Image

from pixelllm_hf.data.bad_records import AnnotationFileError, BadRecordError, ReadReport
from pixelllm_hf.data.collator import GroundedCollator
from pixelllm_hf.data.formats import FORMATS, check_format, read_format
from pixelllm_hf.data.image_transforms import Augmentation
from pixelllm_hf.data.mixing import GroundedBatches, undecoded
from pixelllm_hf.data.plain_texts import plain_prompt
from pixelllm_hf.data.prepared_folder import PreparedFolder, PreparedFolderError, read_prepared
from pixelllm_hf.folders import built_once
from pixelllm_hf.training.cacheable_images import ImageFiles, StoredImages
from pixelllm_hf.training.config import ConfigError
from pixelllm_hf.training.pixel_cache import CanvasReader, PixelCache, damaged_cache, open_pixel_cache
from pixelllm_hf.training.recipe_values import Count, Few, NotNegative, RecipePart, Share, Within

Scale = Annotated[float, Within(0.01, 100)]


@dataclass
class SourceConfig(RecipePart):
    """One data set.

    Args:
        format: a layout of `pixelllm_hf.data.formats`: `localized_narratives`, `referring_expressions`, ...
        task: what the rows are read as where the format serves several (`segment`, `dense`, ...); None takes the
            format's first.
        annotations: the annotation file (for Localized Narratives also a list or a pattern), or the data set's folder
            where its annotations are many files (Flickr30k Entities, PASCAL VOC).
        images: folder of the image files; a `prepared` folder has them inside.
        segments: folder of a panoptic file's PNGs; None looks beside it.
        classes: file of the names of classes (ADE20K, COCO-Stuff, Mapillary).
        explanations: of ReasonSeg; None looks in its folder.
        instances: COCO instances file, which referring expressions point into, or whose objects join COCO captions.
        image_data: Visual Genome's image_data.json.
        split: of formats that have splits (referring expressions, Flickr30k Entities, PASCAL VOC); None takes all.
        weight: relative number of batches from this source; a batch never mixes sources.
        max_prompts: captions, expressions, regions or (dense) objects taken per image and batch.
        align: `text` or `rank` (the reference), how a narrative's words find their utterances.
        scale, flip: random size of the longer side in canvases, and chance of mirroring.
        flip_text: swap left and right in the texts of mirrored images, and mirror none whose texts may not stay true.
        object_points: `last` or `all`, the tokens that learn an object's box.
        region_points: region phrases, asked for or found ("dense"), learn their object's box too.
        contexts: prompt strings to draw from; None takes the task's own.
        group_by_image: rows of the same image become one row with all their prompts.
        on_error: `raise` or `skip` for records that cannot be used.
        limit: use only the first so many images.
    """

    format: str
    annotations: str | list[str]
    images: str = ""
    task: str | None = None
    name: str = ""
    instances: str | None = None
    image_data: str | None = None
    segments: str | None = None
    classes: str | None = None
    explanations: str | None = None
    split: str | None = None
    weight: NotNegative = 1.0
    max_prompts: Few = 1
    align: Literal["text", "rank"] = "text"
    scale: tuple[Scale, Scale] = (1.0, 1.0)
    flip: Share = 0.0
    flip_text: bool = False
    object_points: Literal["last", "all"] = "last"
    region_points: bool = False
    contexts: list[str] | None = None
    group_by_image: bool = True
    on_error: Literal["raise", "skip"] = "skip"
    limit: Count | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.scale[0] > self.scale[1]:
            raise ConfigError(f"scale must be [smallest, largest], but is {list(self.scale)}.")
        try:
            Augmentation(self.scale, self.flip, self.flip_text)
            check_format(self.format, self.annotations, task=self.task, companion=self.companion, split=self.split)
            if FORMATS[self.format].needs_images and not self.images:
                raise ValueError(f"format {self.format!r} needs 'images': the folder of the image files.")
        except ValueError as error:
            raise ConfigError(f"A source is not as it should be: {error}") from error
        self.name = self.name or self.format

    @property
    def companion(self) -> str | None:
        """The file that the annotations point into, if the format has one."""
        name = FORMATS[self.format].companion if self.format in FORMATS else None
        return getattr(self, name) if name else None


@dataclass
class DataConfig(RecipePart):
    """All data of a run.

    Args:
        sources: to train on; held_out: the same for the loss during training (optional).
        texts: files of further texts, one a line, for objective `text`.
        plain_texts: take the marks out of texts that some writers set and others do not: full stops at the end and
            marks that stand alone.
        batch_size: images per batch and process; of objective `text` texts.
        max_text_tokens, max_context_tokens: longest target and longest context, special tokens included.
        cache_dir: where canvas-sized pixels of sources without random scale are cached; None decodes every time.
        cache_features: keep there what frozen towers see of every image and of its mirror image instead, and never run
            them while training.
        pack_texts: prompts of an image that ask the same share a row, so that what the language model reads is made
            once for all their texts: several times as fast for five captions an image. Of T5 alone.
    """

    sources: list[SourceConfig] = field(default_factory=list)
    held_out: list[SourceConfig] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    plain_texts: bool = False
    batch_size: Few = 16
    max_text_tokens: Few = 128
    max_context_tokens: Few = 32
    cache_dir: str | None = "runs/cache"
    cache_features: bool = False
    pack_texts: bool = False
    cache_threads: Few | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, sources in (("sources", self.sources), ("held_out", self.held_out)):
            if sources and not any(source.weight for source in sources):
                raise ConfigError(f"all of {name} have weight 0, so that no batch could be made. Give one a weight.")


def read_source(source: SourceConfig, report: ReadReport | None = None) -> Any:
    """The rows of one source, as its reader gives them."""
    try:
        return read_format(
            source.format,
            source.annotations,
            source.images,
            task=source.task,
            split=source.split,
            companion=source.companion,
            on_error=source.on_error,
            report=report,
        )
    except (FileNotFoundError, AnnotationFileError, BadRecordError, UnpicklingError) as error:
        raise ConfigError(f"Source {source.name!r}: {error}") from error


def _read_prepared(source: SourceConfig, cache_dir: str | None) -> tuple[Any, str]:
    folder = str(source.annotations)
    try:
        rows = read_prepared(folder, task=source.task, split=source.split, cache_dir=cache_dir)
        return rows, PreparedFolder.load(folder).summary()
    except (FileNotFoundError, PreparedFolderError) as error:
        raise ConfigError(f"Source {source.name!r}: {error}") from error


def read_source_cached(source: SourceConfig, cache_dir: str | None) -> tuple[Any, str]:
    """The rows of one source and what was kept and dropped; read once, then memory-mapped from the cache.

    The key holds the files' names, sizes and times, the reader's settings and the readers' code.
    """
    from datasets import load_from_disk

    from pixelllm_hf import data as readers

    if not FORMATS[source.format].needs_images:
        return _read_prepared(source, cache_dir)
    if cache_dir is None:
        report = ReadReport()
        return read_source(source, report), report.summary()
    files = [source.annotations] if isinstance(source.annotations, str) else list(source.annotations)
    files = [found for file in files for found in (sorted(glob.glob(file)) or [file])]
    files += [source.companion] if source.companion else []
    files += [str(file) for folder in files for file in FORMATS[source.format].files(folder)]
    stamps = [(os.path.abspath(f), s.st_size, s.st_mtime_ns) for f in files if (s := _stat(f))]
    code = [file.read_text(encoding="utf-8") for file in sorted(Path(readers.__path__[0]).glob("*.py"))]
    settings = [source.format, source.task, os.path.abspath(source.images), source.split, source.on_error]
    key = hashlib.sha256(json.dumps([stamps, settings, code]).encode()).hexdigest()[:16]

    def build(temporary: Path) -> None:
        report = ReadReport()
        rows = undecoded(read_source(source, report))
        # As paths: saving a `datasets` image would copy the file into every cache.
        paths = [image["path"] for image in rows["image"]]
        rows = rows.remove_columns("image").add_column("image", paths)
        rows.save_to_disk(str(temporary))
        (temporary / "kept.txt").write_text(report.summary(), encoding="utf-8")

    folder = built_once(Path(cache_dir) / f"rows-{source.format}-{key}", build)
    try:
        return load_from_disk(str(folder)), (folder / "kept.txt").read_text(encoding="utf-8")
    except Exception as error:  # datasets meets damaged files with types of several libraries
        raise damaged_cache(folder, error) from error


def _stat(file: str) -> os.stat_result | None:
    try:
        return os.stat(file)
    except OSError:
        return None  # the reader says what is missing


class SourceRows:
    """The rows of one source by image, marked with its name and with pixels from the cache where there is one.

    images_inside: the rows hold the files' bytes instead of their paths.
    flip: chance that the collator mirrors an image. plain_texts: see `DataConfig`.
    """

    def __init__(
        self,
        name: str,
        rows: Any,
        *,
        group_by_image: bool,
        limit: int | None = None,
        images_inside: bool = False,
        flip: float = 0.0,
        plain_texts: bool = False,
    ):
        self.plain_texts = plain_texts
        self.name, self.rows, self.flip, self.images_inside = name, undecoded(rows), flip, images_inside
        groups: dict[str, list[int]] = {}
        for index, image_id in enumerate(self.rows["image_id"]):
            groups.setdefault(image_id if group_by_image else str(index), []).append(index)
        self.groups = list(groups.values())[:limit]
        self.cache: PixelCache | None = None
        self._names: list[str] | None = None
        self._sizes_wh: list[tuple[int, int]] | None = None

    def __len__(self) -> int:
        return len(self.groups)

    def images(self) -> ImageFiles | StoredImages:
        """The images of all rows, as a cache wants them."""
        first = [group[0] for group in self.groups]
        images: ImageFiles | StoredImages
        if self.images_inside:
            images = StoredImages(self.rows, first)
            self._names = images.name_of
        else:
            paths = [_path(image) or "" for image in self.rows["image"]]
            images = ImageFiles([paths[index] for index in first])
            self._names = images.names
        return images

    @property
    def image_names(self) -> list[str]:
        """For each row, what its image is called in `images()`."""
        if self._names is None:
            self.images()
        assert self._names is not None
        return self._names

    def annotated_wh(self, index: int) -> tuple[int, int]:
        """Width and height of image `index` that its annotations are for."""
        if self._sizes_wh is None:
            self._sizes_wh = list(zip(self.rows["width"], self.rows["height"], strict=True))
        return self._sizes_wh[self.groups[index][0]]

    def cache_pixels(self, cache_dir: str, *, canvas: int, threads: int | None = None) -> None:
        """Take the pixels of all images from a cache in `cache_dir` from now on; it is built if it is not there."""
        images = self.images()
        if isinstance(images, ImageFiles) and not all(map(os.path.isfile, images.names)):
            return  # the collator says what is missing
        self.cache = open_pixel_cache(images, cache_dir, canvas=canvas, read=CanvasReader(canvas), threads=threads)

    def cache_row(self, index: int) -> int | None:
        """The row of the pixel cache that holds image `index`; None if there is none."""
        return None if self.cache is None else self.cache.row(self.image_names[index])

    @property
    def file_names(self) -> list[str]:
        """Of the images of a pixel cache, in order, without their folders."""
        return [os.path.basename(name) for name in self.image_names]

    def __getitem__(self, index: int) -> dict[str, Any]:
        first, *others = (self.rows[i] for i in self.groups[index])
        row = {**first, "source": self.name}
        if others:
            row["prompts"] = [prompt for member in (first, *others) for prompt in member["prompts"]]
        if self.plain_texts:
            row["prompts"] = [plain_prompt(prompt) for prompt in row["prompts"]]
        if self.cache is not None:
            at = self.cache_row(index)
            if at is not None and self.cache.sizes_hw[at, 0]:
                height, width = self.cache.sizes_hw[at]
                row["image"] = Image.fromarray(np.array(self.cache.pixels[at, :height, :width]))
        return row


def check_images_stay(sources: Mapping[str, Any], who: str) -> None:
    """Raise unless every source shows its images alike every time, from a pixel cache; `who` needs that."""
    for name, source in sources.items():
        if getattr(source, "cache", None) is None or source.flip:
            raise ConfigError(
                f"{who} needs images that are the same every time, but those of source {name!r} are scaled or "
                "flipped at random, or are not there. Set its scale to [1, 1] and its flip to 0."
            )


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
    together: int = 1,
    notes: list[str] | None = None,
    target_tokens: Sequence[int] | None = None,
    collator: type[GroundedCollator] = GroundedCollator,
) -> GroundedBatches:
    """Numbered batches of the mixed sources. `notes` receives a line per source: what was kept and dropped.

    target_tokens: ids that the model writes a target with; by default those that the tokenizer has. collator: of the
        model's family.
    together: that many consecutive batches come from the same source: those of an optimizer step.
    """
    names = [source.name for source in sources]
    if len(set(names)) != len(names):
        raise ConfigError(f"Sources need different names, but these are {names}; give each a `name`.")
    rows, collators = {}, {}
    for source in sources:
        dataset, kept = read_source_cached(source, data.cache_dir)
        own = SourceRows(
            source.name,
            dataset,
            group_by_image=source.group_by_image,
            flip=source.flip,
            limit=source.limit,
            images_inside=not FORMATS[source.format].needs_images,
            plain_texts=data.plain_texts,
        )
        if not len(own):
            raise ConfigError(f"Source {source.name!r} has no usable record: {kept}.")
        images = processor.image_processor
        cacheable = tuple(source.scale) == (1.0, 1.0) and images.antialias
        if data.cache_features and not cacheable:
            raise ConfigError(
                f"cache_features needs images of the same size every time, but those of source {source.name!r} are "
                "scaled at random, or the processor does not antialias. Set its scale to [1, 1]."
            )
        if data.cache_dir and cacheable and not data.cache_features:
            own.cache_pixels(data.cache_dir, canvas=images.canvas, threads=data.cache_threads)
        if notes is not None:
            notes.append(f"{source.name}: {len(own)} images, {kept}")
        rows[source.name] = own
        task = own[0]["task"]
        collators[source.name] = collator.for_processor(
            processor,
            max_prompts=source.max_prompts,
            max_text_tokens=data.max_text_tokens,
            max_context_tokens=data.max_context_tokens,
            align=source.align,
            augmentation={task: Augmentation(source.scale, source.flip, source.flip_text)},
            contexts={task: source.contexts} if source.contexts else None,
            object_points=source.object_points,
            region_points=source.region_points,
            target_tokens=target_tokens,
            pixels=not data.cache_features,
            pack=data.pack_texts,
        )
    weights = {source.name: source.weight for source in sources}
    return GroundedBatches(
        rows, _BySource(collators), batch_size=data.batch_size, seed=seed, weights=weights, together=together
    )
