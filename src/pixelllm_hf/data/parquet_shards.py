"""Writes prepared folders: annotation files and images -> parquet shards of grounded rows (see `prepared_folder`).

Writing can be killed at any time: a shard is there whole or not at all, and the same call goes on where it stopped.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]

from pixelllm_hf.data.bad_records import BadRecordError, OnError, ReadReport
from pixelllm_hf.data.formats import check_format, read_format
from pixelllm_hf.data.grounded_examples import GROUNDED_FEATURES
from pixelllm_hf.data.image_folder import shape_problem
from pixelllm_hf.data.localized_narratives import annotation_files
from pixelllm_hf.data.mixing import undecoded
from pixelllm_hf.data.prepared_folder import SHARDS, PreparedFolder, PreparedFolderError
from pixelllm_hf.data.prepared_objects import write_objects
from pixelllm_hf.files import atomic_path, sha256_of_files
from pixelllm_hf.folders import folder_lock
from pixelllm_hf.processing.image_reading import ImageError, read_image

_ROWS_PER_GROUP = 64  # a stream reads one group at a time


def prepare_format(
    name: str,
    annotations: str | Path | Sequence[str | Path],
    images: str | Path,
    out: str | Path,
    *,
    task: str | None = None,
    split: str | None = None,
    companion: str | Path | None = None,
    instances: str | Path | None = None,
    on_error: OnError = "skip",
    for_evaluation: bool = False,
    rows_per_shard: int = 2000,
    progress: Callable[[str], None] | None = None,
) -> PreparedFolder:
    """Read annotation files as `formats.read_format` does and write the rows into the folder `out`.

    instances: a COCO instances file of the images, for evaluation (see `prepared_objects`); taken from the
    annotations or their companion where one of them is such a file.
    for_evaluation: keep what official evaluation counts and nothing can be learnt from; training refuses the folder.
    The folder knows the annotation files by their content, so that it can be finished only from the same ones.
    """
    layout = check_format(name, annotations, task=task, companion=companion, split=split)
    if not layout.needs_images:
        raise ValueError(f"format {name!r} is a folder that was prepared already. Read it as it is.")
    folder_files = layout.files(str(annotations)) if layout.inside else []
    given = [*annotation_files(annotations), *([Path(companion)] if companion else [])]
    if instances is None and layout.instances is not None:
        instances = given[0] if layout.instances == "annotations" else companion
    files = list(dict.fromkeys([*given, *([Path(instances)] if instances else [])]))
    digests = [[file.name, sha256_of_files([file])] for file in files if file.is_file()]
    if folder_files:
        digests.append([Path(str(annotations)).name, sha256_of_files(folder_files)])
    settings = {
        "format": name,
        "task": task or layout.tasks[0],
        "annotations": digests,
        "source_split": split,
        "on_error": on_error,
        **({"for_evaluation": True} if for_evaluation else {}),
    }

    def rows(report: ReadReport) -> Iterable[dict[str, Any]]:
        options: dict[str, Any] = {"task": task, "split": split, "companion": companion, "on_error": on_error}
        options["for_evaluation"] = for_evaluation
        return undecoded(read_format(name, annotations, images, streaming=True, report=report, **options))

    with folder_lock(out, "a preparation of data"):
        return prepare_shards(
            rows,
            out,
            settings=settings,
            split=split or "train",
            on_error=on_error,
            rows_per_shard=rows_per_shard,
            instances=instances,
            places=[str(file.parent) for file in [*files, Path(images) / "_"]],
            progress=progress,
        )


def prepare_shards(
    rows: Callable[[ReadReport], Iterable[dict[str, Any]]],
    out: str | Path,
    *,
    settings: dict[str, Any],
    split: str = "train",
    on_error: OnError = "skip",
    rows_per_shard: int = 2000,
    instances: str | Path | None = None,
    places: Sequence[str] = (),
    progress: Callable[[str], None] | None = None,
) -> PreparedFolder:
    """Write all rows into the folder `out`, or those shards of them that are not there yet.

    rows: called with a report, gives the same rows in the same order at every call; what it drops is in the report at
    its end. settings: what the rows come from; a folder that was begun with others is refused.
    Images that cannot be decoded, or are of another shape than annotated, drop their rows here.
    instances: COCO instances of the images, which are written beside the shards.
    places: folders whose names are left out of the messages in the folder's record, which others may read.
    progress: receives a line per shard.
    """
    if rows_per_shard < 1:
        raise ValueError(f"rows_per_shard must be 1 or more, but it is {rows_per_shard}.")
    state = PreparedFolder.begin(out, {**settings, "split": split, "rows_per_shard": rows_per_shard})
    report = ReadReport()
    stream = iter(rows(report))
    names: list[str] = []
    while chunk := list(islice(stream, rows_per_shard)):
        names.append(f"{SHARDS}/{split}-{len(names):05d}.parquet")
        path, records = state.folder / names[-1], _digest_of(chunk)
        if not _is_finished(path, state.shards.get(names[-1]), records):
            shard = _write_shard(path, chunk, on_error)
            shard["first_dropped"] = _without(places, shard["first_dropped"])
            state.shards[names[-1]] = {**shard, "records": records}
            state.counts = None
            state.save()
        if progress:
            progress(f"{names[-1]}: {state.shards[names[-1]]['rows']} rows")
    for name in set(state.shards) - set(names):  # of an earlier run that found more images
        (state.folder / name).unlink(missing_ok=True)
        del state.shards[name]
    if not any(shard["rows"] for shard in state.shards.values()):
        state.save()
        reasons = [*report.first.values(), *(f for s in state.shards.values() for f in s["first_dropped"].values())]
        raise PreparedFolderError(f"no usable row was found: {'; '.join(reasons) or 'the annotations are empty'}.")
    if instances is not None:
        shards = [state.folder / name for name in names]
        ids = (i for shard in shards for i in pq.read_table(shard, columns=["image_id"])["image_id"].to_pylist())
        if not write_objects(instances, state.folder, dict.fromkeys(ids)):
            raise PreparedFolderError(f"{str(instances)!r} lists none of the images. Pass the matching file.")
    report.first = _without(places, report.first)
    state.finish(report)
    return state


def _write_shard(path: Path, rows: list[dict[str, Any]], on_error: OnError) -> dict[str, Any]:
    """Write the usable rows of a chunk; gives what the folder's record says of the shard."""
    report = ReadReport()
    prompts = 0
    schema = GROUNDED_FEATURES.arrow_schema
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob(f".{path.stem}.*.tmp{path.suffix}"):  # of a killed run
        left.unlink(missing_ok=True)
    with atomic_path(path) as temporary:
        with pq.ParquetWriter(temporary, schema, compression="snappy", write_page_checksum=True) as writer:
            usable = _embedded(rows, report, on_error)
            while group := list(islice(usable, _ROWS_PER_GROUP)):
                prompts += sum(len(row["prompts"]) for row in group)
                encoded = [GROUNDED_FEATURES.encode_example(row) for row in group]
                writer.write_table(pa.Table.from_pylist(encoded, schema=schema))
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
    return {
        "rows": report.kept,
        "prompts": prompts,
        "bytes": path.stat().st_size,
        "dropped": dict(report.dropped),
        "first_dropped": report.first,
    }


def _embedded(rows: Iterable[dict[str, Any]], report: ReadReport, on_error: OnError) -> Iterator[dict[str, Any]]:
    for row in rows:
        try:
            image = _image_bytes(row)
        except BadRecordError as error:
            report.drop(error, on_error)
            continue
        report.kept += 1
        yield {**row, "image": image}


def _image_bytes(row: dict[str, Any]) -> dict[str, Any]:
    """The image file's bytes and name, once it is known to decode and to have the annotated shape."""
    path, where = row["image"]["path"], f"image {row['image_id']!r}"
    try:
        content = Path(path).read_bytes()
        image = read_image(content, enough=64, name=str(path))
    except (OSError, ImageError) as error:
        raise BadRecordError("unreadable image", where, str(error), "Replace the file or skip it.") from error
    if problem := shape_problem(repr(path), image.size_wh, (row["width"], row["height"])):
        raise BadRecordError("image of another shape", where, problem, "Pair the annotations with their images.")
    return {"bytes": content, "path": Path(path).name}


def _without(places: Sequence[str], messages: dict[str, str]) -> dict[str, str]:
    for place in sorted(places, key=len, reverse=True):
        if place not in ("", "."):
            messages = {why: message.replace(place.rstrip(os.sep) + os.sep, "") for why, message in messages.items()}
    return messages


def _is_finished(path: Path, shard: dict[str, Any] | None, records: str) -> bool:
    return (
        shard is not None and shard["records"] == records and path.is_file() and path.stat().st_size == shard["bytes"]
    )


def _digest_of(rows: Sequence[dict[str, Any]]) -> str:
    """Of the rows and of their image files' names and sizes: a shard made from others is written again."""
    digest = hashlib.sha256()
    for row in rows:
        path = Path(row["image"]["path"])
        image = [path.name, path.stat().st_size if path.is_file() else None]
        digest.update(json.dumps({**row, "image": image}, sort_keys=True).encode())
    return digest.hexdigest()
