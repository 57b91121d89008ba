"""A folder of scenes in the official layouts, written by several processes and complete or not there at all.

images/000000000001.jpg ...
localized_narratives.jsonl                 Localized Narratives (still images)
instances.json, captions.json              COCO
refcoco/refs(unc).p, refs.json, instances.json
visual_genome/region_descriptions.json, image_data.json
muse/muse.json
"""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TextIO

from PIL import Image

from pixelllm_hf.folders import LOCK, folder_lock

from .backgrounds import load_photographs
from .library import ObjectLibrary
from .questions import USUAL_PLAN, QuestionPlan
from .records import SceneRecords, scene_records
from .scene import compose_scene

JPEG_QUALITY = 90
CHUNK = 32  # scenes a process works on at a time


class SceneOutputError(ValueError):
    """An output folder or amount that scenes cannot be written with."""


def write_scenes(
    out: str | Path,
    number: int,
    seed: int,
    *,
    objects: str | Path | None = None,
    backgrounds: str | Path | None = None,
    workers: int = 1,
    split: str = "train",
    plan: QuestionPlan = USUAL_PLAN,
    progress: bool = False,
) -> Path:
    """Write `number` scenes of the series `seed` to the folder `out`, which must not exist or be empty.

    The files do not depend on `workers`. Until all is written the folder is called `<out>.part`.
    """
    out = Path(out)
    if number < 1 or seed < 0 or workers < 1:
        raise SceneOutputError(
            "number and workers must be at least 1 and the seed at least 0, "
            f"but came as {number}, {workers} and {seed}."
        )
    if plan.number < 1 or not 0 <= plan.empty_share <= 1:
        raise SceneOutputError(
            "a scene needs at least 1 question and a share of empty answers within 0..1, but they came as "
            f"{plan.number} and {plan.empty_share}."
        )
    library = ObjectLibrary.from_folder(objects) if objects else ObjectLibrary.builtin()
    part = out.with_name(out.name + ".part")
    with folder_lock(part, "a program that composes scenes"):
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            shutil.rmtree(part, ignore_errors=True)
            raise SceneOutputError(
                f"the output folder {out} is not empty; give a new one, series never mix in a folder."
            )
        for left in part.iterdir():  # of a killed run
            if left.name != LOCK:
                shutil.rmtree(left) if left.is_dir() else left.unlink()
        try:
            (part / "images").mkdir()
            job = _Job(part / "images", seed, split, objects, backgrounds, plan)
            _write_files(part, library, _run(job, number, workers, progress))
            if out.exists():
                out.rmdir()
            os.replace(part, out)
            (out / LOCK).unlink()
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise
    return out


class _Job:
    """What a process needs to draw scenes; the images are loaded where they are used."""

    def __init__(
        self,
        images: Path,
        seed: int,
        split: str,
        objects: str | Path | None,
        backgrounds: str | Path | None,
        plan: QuestionPlan,
    ):
        self.images, self.seed, self.split, self.plan = images, seed, split, plan
        self.library = ObjectLibrary.from_folder(objects) if objects else ObjectLibrary.builtin()
        self.photographs: list[Image.Image] | None = load_photographs(backgrounds) if backgrounds else None
        self.category_ids = category_ids(self.library)

    def draw(self, index: int) -> SceneRecords:
        scene = compose_scene(self.seed, index, self.library, self.photographs, self.plan)
        records = scene_records(scene, self.category_ids, self.split)
        scene.image.save(self.images / records.file_name, quality=JPEG_QUALITY)
        return records


def category_ids(library: ObjectLibrary) -> dict[str, int]:
    """COCO category ids: 1 for the first name of the library, and so on."""
    return {name: k + 1 for k, name in enumerate(library.names)}


_job: _Job | None = None


def _start_process(job: _Job) -> None:
    global _job
    _job = job


def _draw_in_process(index: int) -> SceneRecords:
    assert _job is not None
    return _job.draw(index)


def _run(job: _Job, number: int, workers: int, progress: bool) -> Iterator[SceneRecords]:
    from tqdm import tqdm

    with ExitStack() as stack:
        if workers == 1:
            results: Iterator[SceneRecords] = map(job.draw, range(number))
        else:
            pool = stack.enter_context(multiprocessing.Pool(workers, _start_process, (job,)))
            results = pool.imap(_draw_in_process, range(number), CHUNK)
        yield from tqdm(results, total=number, unit="scene", disable=not progress)


class _JsonList:
    """Appends to a JSON list in a file, so that a million records need no memory."""

    def __init__(self, file: TextIO, before: str = "", after: str = ""):
        self._file, self._after, self._empty = file, after, True
        file.write(before + "[")

    def add(self, record: dict[str, Any]) -> None:
        self._file.write(("\n" if self._empty else ",\n") + json.dumps(record, separators=(",", ":")))
        self._empty = False

    def close(self) -> None:
        self._file.write("\n]" + self._after)


def _write_files(folder: Path, library: ObjectLibrary, scenes: Iterator[SceneRecords]) -> None:
    for name in ("refcoco", "visual_genome", "muse"):
        (folder / name).mkdir()
    info: dict[str, Any] = {"description": "Composed scenes", "url": "", "version": "1.0", "year": 2026}
    info |= {"contributor": "", "date_created": ""}
    header = '{"info":' + json.dumps(info) + ',"licenses":[{"url":"","id":1,"name":"MIT"}],"annotations":'
    images: list[dict[str, Any]] = []
    refs: list[dict[str, Any]] = []
    categories = [{"supercategory": "object", "id": k, "name": n} for n, k in category_ids(library).items()]
    with ExitStack() as stack:

        def opened(name: str) -> TextIO:
            return stack.enter_context(open(folder / name, "w", encoding="utf-8"))

        narratives = opened("localized_narratives.jsonl")
        instances_file, captions_file = opened("instances.json"), opened("captions.json")
        instances, captions = _JsonList(instances_file, header), _JsonList(captions_file, header)
        vg_regions = _JsonList(opened("visual_genome/region_descriptions.json"))
        vg_images = _JsonList(opened("visual_genome/image_data.json"))
        muse = _JsonList(opened("muse/muse.json"))
        for scene in scenes:
            for narrative in scene.narratives:
                narratives.write(json.dumps(narrative, separators=(",", ":")) + "\n")
            for annotation in scene.annotations:
                instances.add(annotation)
            for caption in scene.captions:
                captions.add(caption)
            vg_regions.add(scene.vg_regions)
            vg_images.add(scene.vg_image)
            muse.add(scene.muse)
            images.append(scene.image)
            refs.extend(scene.refs)
        for listed in (instances, captions, vg_regions, vg_images, muse):
            listed.close()
        image_text = ',"images":' + json.dumps(images, separators=(",", ":"))
        instances_file.write(image_text + ',"categories":' + json.dumps(categories) + "}\n")
        captions_file.write(image_text + "}\n")
    refs_text = json.dumps(refs, separators=(",", ":"))
    (folder / "refcoco" / "refs.json").write_text(refs_text, encoding="utf-8")
    with open(folder / "refcoco" / "refs(unc).p", "wb") as file:
        # the protocol of the official files and builtin containers only; through JSON because a pickle also records
        # which strings are one object, and that depends on the number of processes
        pickle.dump(json.loads(refs_text), file, protocol=2)
    _link_or_copy(folder / "instances.json", folder / "refcoco" / "instances.json")


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without hard links
        shutil.copyfile(source, target)
