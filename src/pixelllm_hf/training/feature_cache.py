"""What frozen towers see of every image and of its mirror image, computed once and kept for all runs.

features-DIGEST/            of one set of towers: their weights, their config and the maps that are kept
    part-DIGEST/            of the images that a run found missing
        info.json           shapes of the maps; the images, each the digest of its content
        fused.f16 ...       (N, 2, h, w, C) float16: row i is image i as it is, and mirrored
    seen-DIGEST.json        which content each file had by its path, size and time, so that it is not read for that
                            again; parts of earlier versions know their images by these alone
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object
from torch import Tensor
from tqdm.auto import tqdm

from pixelllm_hf.data.image_folder import shape_problem
from pixelllm_hf.data.mixing import GroundedBatches
from pixelllm_hf.files import atomic_text
from pixelllm_hf.folders import atomic_folder, remove_leftovers, reserve
from pixelllm_hf.modeling.configuration_pixelllm import PixelLLMConfig
from pixelllm_hf.modeling.configuration_towers import FUSED
from pixelllm_hf.modeling.vision_towers import VisionFeatures, VisionTowers, map_statistics
from pixelllm_hf.processing.tasks import TASK_SPECS
from pixelllm_hf.training.cacheable_images import CacheableImages
from pixelllm_hf.training.config import ConfigError
from pixelllm_hf.training.pixel_cache import CanvasReader, damaged_cache

CACHE_VERSION = 3
IMAGES_AT_ONCE = 8
PLAIN, MIRRORED = 0, 1


@dataclass(frozen=True)
class FeatureMaker:
    """towers: frozen. maps: the names of those that are kept. threads: that make them, all cores by default."""

    towers: VisionTowers
    maps: tuple[str, ...]
    accelerator: Accelerator
    threads: int | None = None

    @property
    def canvas(self) -> int:
        return self.towers.config.image_size

    def digest(self) -> str:
        """Of all that the features depend on; the statistics that standardise them are applied when they are read."""
        # Also the config: the same weights may be asked for other maps, or see the canvas at another size.
        config = self.towers.config
        towers = [{**tower.to_dict(), "transformers_version": ""} for tower in config.towers]
        about = [CACHE_VERSION, self.canvas, self.maps, config.fused_maps, config.fused_grid_size, towers]
        digest = hashlib.sha256(json.dumps(about, sort_keys=True, default=str).encode())
        for name, tensor in sorted(self.towers.state_dict().items()):
            if name not in ("fused_mean", "fused_scale"):
                digest.update(name.encode())
                digest.update(tensor.detach().cpu().float().contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]

    @torch.no_grad()
    def see(self, pixels: np.ndarray, sizes_hw: np.ndarray) -> dict[str, Tensor]:
        """pixels (N, S, S, 3) uint8 with the image of sizes_hw (N, 2) at the top left -> maps (N, 2, h, w, C)."""
        both = np.stack([pixels, pixels], axis=1)
        axis = np.arange(self.canvas)
        mask = np.zeros((len(pixels), 2, self.canvas, self.canvas), bool)
        for image, (height, width) in enumerate(sizes_hw):
            both[image, MIRRORED, :height, :width] = pixels[image, :height, :width][:, ::-1]
            mask[image] = (axis < height)[:, None] & (axis < width)
        values = torch.from_numpy(both).flatten(0, 1).permute(0, 3, 1, 2).float()
        device = self.accelerator.device
        # In float32 whatever the run trains in: these are computed once.
        features = self.towers.seen(values.to(device), torch.from_numpy(mask).flatten(0, 1).to(device))
        return {name: features[name].unflatten(0, (-1, 2)) for name in self.maps}


def kept_maps(config: PixelLLMConfig, batches: GroundedBatches) -> tuple[str, ...]:
    """The maps that training on these batches reads: language needs those of prompts alone, masks another."""
    sources: dict[str, Any] = dict(batches.sources)
    specs = [TASK_SPECS.get(source[0]["task"]) for source in sources.values()]
    if any(spec is None or spec.finds_objects or spec.writes_targets for spec in specs):
        return tuple(config.head_maps)
    if any(spec is not None and spec.wants_masks for spec in specs):
        return tuple(dict.fromkeys([*config.prompt_maps, config.vision_config.mask_map]))
    return tuple(config.prompt_maps)


class FeaturePart:
    """Some images' maps: name -> (N, 2, h, w, C) float16, memory-mapped. sizes_hw (N, 2) of the image files."""

    def __init__(self, folder: Path, mode: Literal["r", "r+"] = "r"):
        try:
            info = json.loads((folder / "info.json").read_text(encoding="utf-8"))
            self.images: list[str] = info["images"]
            self.bad: dict[str, str] = info["bad"]
            self.maps = {
                name: np.memmap(folder / f"{name}.f16", np.float16, mode, shape=tuple(shape))
                for name, shape in info["shapes"].items()
            }
            self.sizes_hw = np.memmap(folder / "sizes.i32", np.int32, mode, shape=(len(self.images), 2))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise damaged_cache(folder, error) from error


class FeatureCache:
    """The features of the images asked for so far by anybody, by the digests of `image_digests`, or of their content.

    A file that was copied is the same image; one that was written at the place of another is not.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.parts: list[FeaturePart] = []
        self._place: dict[str, tuple[int, int]] = {}
        for part in sorted(folder.glob("part-*")):
            self.parts.append(FeaturePart(part))
            self._place |= {image: (len(self.parts) - 1, row) for row, image in enumerate(self.parts[-1].images)}
        for file in sorted(folder.glob("seen-*.json")):
            contents = _read_seen(file)
            self._place |= {image: self._place[of] for image, of in contents.items() if of in self._place}

    def __contains__(self, image: str) -> bool:
        return image in self._place

    def size_hw(self, image: str) -> tuple[int, int]:
        part, row = self._place[image]
        height, width = self.parts[part].sizes_hw[row]
        return int(height), int(width)

    def problem(self, image: str) -> str | None:
        """Why the image could not be read."""
        part, row = self._place[image]
        return self.parts[part].bad.get(self.parts[part].images[row])

    def features(self, images: Sequence[str], mirrored: Sequence[bool]) -> VisionFeatures:
        """What `VisionTowers.seen` gives of these images (B,), those marked so mirrored, to half precision."""
        where = [(*self._place[image], int(flip)) for image, flip in zip(images, mirrored, strict=True)]
        maps = {
            name: torch.from_numpy(np.stack([self.parts[part].maps[name][row, side] for part, row, side in where]))
            for name in self.parts[where[0][0]].maps
        }
        return VisionFeatures(fused=maps.pop(FUSED).float(), maps={name: one.float() for name, one in maps.items()})


def image_digests(images: CacheableImages) -> list[str]:
    """What each image is known by, whichever source shows it: another file at the same place is another image."""
    return [_digest(key) for key in images.key]


def open_feature_cache(maker: FeatureMaker, images: CacheableImages, cache_dir: str | Path) -> FeatureCache:
    """The cache for these towers with these images in it; those that are missing are made by all processes together.

    Weights are its key, so that other towers never meet features that are not theirs; and the images' content, so that
    features outlive a copy of their folder.
    """
    folder = Path(cache_dir) / f"features-{maker.digest()}"
    digests = image_digests(images)
    known = FeatureCache(folder)
    unseen = {digest: place for place, digest in enumerate(digests) if digest not in known}
    contents = _contents(images, unseen) if maker.accelerator.is_main_process else {}
    places = {of: unseen[digest] for digest, of in contents.items() if of not in known}
    # one looks for all: another run may be adding to it
    contents, missing = broadcast_object_list([contents, places])
    if missing:
        _build(maker, images, missing, folder)
    if contents:
        if maker.accelerator.is_main_process:
            _write_seen(folder, contents)
        maker.accelerator.wait_for_everyone()
        known = FeatureCache(folder)
    if bad := [(place, why) for place, digest in enumerate(digests) if (why := known.problem(digest))]:
        raise ConfigError(
            f"{len(bad)} image(s) cannot be read, first {images.names[bad[0][0]]!r}: {bad[0][1]} Mend them, or leave "
            "them out."
        )
    return known


def _contents(images: CacheableImages, unseen: dict[str, int]) -> dict[str, str]:
    """Digests of the content of the images at these places; of files that cannot be read, what they are known by."""
    with ThreadPoolExecutor() as pool:
        found = list(pool.map(images.content, unseen.values()))
    return {digest: digest if of is None else _digest(of) for digest, of in zip(unseen, found, strict=True)}


def _digest(key: Any) -> str:
    return hashlib.sha256(json.dumps(key).encode()).hexdigest()[:24]


class CachedFeatureBatches:
    """Batches that bring `image_features`, looked up instead of computed.

    batches: of sources without random scale, whose collators leave pixels out (`pixels=False`).
    """

    def __init__(self, batches: GroundedBatches, maker: FeatureMaker, cache_dir: str | None):
        if cache_dir is None:
            raise ConfigError("cache_features needs data.cache_dir: the folder that receives the features.")
        if any(parameter.requires_grad for parameter in maker.towers.parameters()):
            raise ConfigError(
                "cache_features needs towers that do not train. Add vision_towers to model.freeze, or leave it out."
            )
        self.batches, self.towers = batches, maker.towers
        self.caches: dict[str, FeatureCache] = {}
        self.images: dict[str, list[str]] = {}
        sources: dict[str, Any] = batches.sources
        for name, source in sources.items():
            images = source.images()
            self.caches[name] = open_feature_cache(maker, images, cache_dir)
            of_name = dict(zip(images.names, image_digests(images), strict=True))
            self.images[name] = [of_name[image] for image in source.image_names]
            self._check_shapes(name, source)

    def _check_shapes(self, name: str, source: Any) -> None:
        for index, image in enumerate(self.images[name]):
            height, width = self.caches[name].size_hw(image)
            where = f"image {source.image_names[index]!r} of source {name!r}"
            if problem := shape_problem(where, (width, height), source.annotated_wh(index)):
                raise ConfigError(f"{problem} Pair the annotations with their images.")

    def measure(self, images: int) -> None:
        """Give the towers the statistics of these batches' maps to standardise by, of so many images."""
        batches = (self._looked_up(index) for index in range(-(-images // self.batches.plan.batch_size)))
        self.towers.set_statistics(*map_statistics((b["image_features"].fused, b["pixel_mask"]) for b in batches))

    def batch_at(self, index: int) -> dict[str, Any]:
        batch = self._looked_up(index)
        return {**batch, "image_features": self.towers.standardised(batch["image_features"])}

    def _looked_up(self, index: int) -> dict[str, Any]:
        batch, plan = self.batches.batch_at(index), self.batches.plan.at(index)
        images = [self.images[plan.source][row] for row in plan.indices]
        features = self.caches[plan.source].features(images, batch.pop("mirrored").tolist())
        return {**batch, "image_features": features}


def _build(maker: FeatureMaker, images: CacheableImages, missing: dict[str, int], folder: Path) -> None:
    """Add a part with the missing images: digest -> place in `images`."""
    accelerator, names = maker.accelerator, list(missing)
    part = folder / f"part-{hashlib.sha256(json.dumps(names).encode()).hexdigest()[:16]}"
    maker.towers.to(accelerator.device).eval()
    read = CanvasReader(maker.canvas)
    with ExitStack() as stack:
        pool = stack.enter_context(_workers(maker.threads, accelerator))
        temporary = None
        if accelerator.is_main_process:
            remove_leftovers(folder, f"{part.name}.*")
            temporary = stack.enter_context(atomic_folder(part, replace=False))
            blank = np.zeros((1, maker.canvas, maker.canvas, 3), np.uint8)
            shapes = {}
            for name, value in maker.see(blank, np.full((1, 2), maker.canvas)).items():
                shapes[name] = [len(names), *value.shape[1:]]
                reserve(temporary / f"{name}.f16", 2 * int(np.prod(shapes[name])))
            reserve(temporary / "sizes.i32", 8 * len(names))
            _write_info(temporary, shapes, names, {})
        (temporary,) = broadcast_object_list([temporary])
        made = FeaturePart(temporary, "r+")
        bad: dict[str, str] = {}

        def opened(row: int) -> tuple[np.ndarray, tuple[int, int], tuple[int, int]]:
            try:
                return read(images[missing[names[row]]])
            except (OSError, ValueError) as error:
                bad[names[row]] = str(error)
                return np.zeros((maker.canvas, maker.canvas, 3), np.uint8), (maker.canvas, maker.canvas), (0, 0)

        def fill(rows: np.ndarray) -> None:
            pixels, sizes, files = zip(*map(opened, rows), strict=True)
            for name, value in maker.see(np.stack(pixels), np.array(sizes)).items():
                made.maps[name][rows] = value.half().cpu().numpy()
            made.sizes_hw[rows] = files

        own = np.array_split(np.arange(len(names)), accelerator.num_processes)[accelerator.process_index]
        chunks = [own[start : start + IMAGES_AT_ONCE] for start in range(0, len(own), IMAGES_AT_ONCE)]
        shown = accelerator.is_main_process and len(chunks) > 10
        for _ in tqdm(pool.map(fill, chunks), "features", len(chunks), disable=not shown, mininterval=5.0):
            pass
        written: list[Any] = [*made.maps.values(), made.sizes_hw]
        for file in written:
            file.flush()
        bad = {name: why for of_one in gather_object([bad]) for name, why in of_one.items()}
        if accelerator.is_main_process:
            _write_info(temporary, {name: list(value.shape) for name, value in made.maps.items()}, names, bad)
        accelerator.wait_for_everyone()
    accelerator.wait_for_everyone()


@contextmanager
def _workers(threads: int | None, accelerator: Accelerator) -> Iterator[ThreadPoolExecutor]:
    """Threads that each run the towers on a core of their own: several at one batch would wait for each other."""
    before = torch.get_num_threads()
    number = max(1, (threads or os.cpu_count() or 1) // accelerator.num_processes)
    with ThreadPoolExecutor(number, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        yield pool
    torch.set_num_threads(before)  # a new thread begins with what was said last


def _write_seen(folder: Path, contents: dict[str, str]) -> None:
    """Remember the content of files, of those that are known by something else."""
    if seen := {digest: of for digest, of in contents.items() if digest != of}:
        text = json.dumps(seen)
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_text(folder / f"seen-{hashlib.sha256(text.encode()).hexdigest()[:16]}.json") as file:
            file.write(text)


def _read_seen(file: Path) -> dict[str, str]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        return {str(image): str(of) for image, of in content.items()}
    except (OSError, ValueError, AttributeError) as error:
        raise damaged_cache(file, error) from error


def _write_info(folder: Path, shapes: dict[str, list[int]], images: list[str], bad: dict[str, str]) -> None:
    info = json.dumps({"shapes": shapes, "images": images, "bad": bad})
    (folder / "info.json").write_text(info, encoding="utf-8")
