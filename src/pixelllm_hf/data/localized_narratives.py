"""Localized Narratives, official still-image JSONL -> grounded rows (official.md#narratives).

One narrative a line: caption, timed caption, mouse traces in 0..1 of the image with times in seconds.
"""

from __future__ import annotations

import glob
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from datasets import Dataset, IterableDataset

from pixelllm_hf.data.annotation_text import read_records
from pixelllm_hf.data.bad_records import BadRecordError, OnError, ReadReport, check_on_error
from pixelllm_hf.data.grounded_examples import build_dataset, grounded_prompt, grounded_row
from pixelllm_hf.data.image_folder import ImageFolder
from pixelllm_hf.data.record_fields import (
    checked_id,
    checked_list,
    checked_number,
    checked_string,
    required,
    shown,
)
from pixelllm_hf.data.trace_alignment import sample_trace, utterance_boxes, utterance_centers

_KEYS = {"dataset_id", "image_id", "annotator_id", "caption", "timed_caption", "traces", "voice_recording"}
_FARTHEST = 1000  # sides of the image; hands leave it, but not the desk
_MOST_UTTERANCES = 2000


def read_localized_narratives(
    annotations: str | Path | Sequence[str | Path],
    images: str | Path | None = None,
    *,
    streaming: bool = False,
    on_error: OnError = "raise",
    check_images: bool = False,
    unordered_times: Literal["error", "sort"] = "error",
    ignore_keys: Sequence[str] = (),
    report: ReadReport | None = None,
) -> Dataset | IterableDataset:
    """Rows of task "trace", one per narrative: the written caption as target, a box and a centre per utterance.

    annotations: JSONL file(s), gzipped or not, or glob pattern. images: folder of the image files; without it
    rows have no image and their pixel frame is the unit square (width = height = 1).
    Boxes may leave the image, as the mouse did; the collator clips them like the reference.
    check_images: decode every image while reading, so that damaged files are bad records too.
    ignore_keys: keys beyond the official ones to let pass. Narratives with one trace point or none are bad records.
    """
    check_on_error(on_error)
    files = annotation_files(annotations)
    folder = ImageFolder(images, check=check_images) if images is not None else None
    known = _KEYS | set(ignore_keys)

    def rows(report: ReadReport) -> Iterator[dict[str, Any]]:
        for file in files:
            for where, record in read_records(file, report, on_error):
                report.read["narratives"] += 1
                try:
                    yield _row(where, record, folder, known, unordered_times)
                except BadRecordError as error:
                    report.drop(error, on_error)

    return build_dataset(rows, streaming=streaming, report=report)


def annotation_files(annotations: str | Path | Sequence[str | Path]) -> list[Path]:
    """The files that a path, a glob pattern or a list of these names, sorted; none at all is an error."""
    patterns = [annotations] if isinstance(annotations, str | Path) else list(annotations)
    files: list[Path] = []
    for pattern in patterns:
        path = Path(pattern)
        found = [path] if path.is_file() or path.is_dir() else sorted(Path(name) for name in glob.glob(str(pattern)))
        if not found:
            raise FileNotFoundError(f"no annotation file matches {str(pattern)!r}. Check the path.")
        files += found
    return files


def _row(
    where: str, record: Any, folder: ImageFolder | None, known: set[str], unordered_times: Literal["error", "sort"]
) -> dict[str, Any]:
    image_id, caption, timed_caption, traces = required(where, record, "image_id", "caption", "timed_caption", "traces")
    unknown = sorted(set(record) - known)
    if unknown:
        raise BadRecordError(
            "unknown key",
            where,
            f"the record has unknown key(s) {shown(unknown)}.",
            f"Localized Narratives have {sorted(_KEYS)}; let more pass with ignore_keys={shown(tuple(unknown))}.",
        )
    image_id = checked_id(where, image_id)
    caption = checked_string(where, caption, "the caption").strip()
    if not caption:
        raise BadRecordError("empty caption", where, "the caption is empty.", "Add the text or skip the record.")
    texts, spans = _utterances(where, timed_caption)
    times, points = _trace(where, traces, unordered_times)
    path = folder.find(where, image_id) if folder else None
    width, height = ImageFolder.size_wh(where, path) if path else (1, 1)
    with np.errstate(over="ignore", invalid="ignore"):  # looked at next
        sampled = sample_trace(times, points, spans)
        boxes, centers = utterance_boxes(sampled), utterance_centers(sampled, spans)
    if not (np.abs(boxes) <= _FARTHEST).all() or not (np.abs(centers) <= _FARTHEST).all():
        raise BadRecordError(
            "malformed trace",
            where,
            f"the mouse is more than {_FARTHEST} images away when something is said.",
            "Points are in 0..1 of the image and times in seconds; correct them or skip the record.",
        )
    boxes, centers = boxes * [width, height, width, height], centers * [width, height]
    utterances = [
        {"text": text, "box": box, "center": center}
        for text, box, center in zip(texts, boxes.tolist(), centers.tolist(), strict=True)
    ]
    return grounded_row(
        path, image_id, (width, height), "trace", [grounded_prompt(caption, utterances=utterances, point_loss=True)]
    )


def _utterances(where: str, timed_caption: object) -> tuple[list[str], np.ndarray]:
    """Texts and (U, 2) time spans."""
    if not isinstance(timed_caption, list) or not 1 <= len(timed_caption) <= _MOST_UTTERANCES:
        raise BadRecordError(
            "no timed caption", where, f"timed_caption is no list of 1 to {_MOST_UTTERANCES} utterances.", "Skip it."
        )
    texts, spans = [], []
    for index, utterance in enumerate(timed_caption):
        place = f"{where}, timed_caption[{index}]"
        text, start, end = required(place, utterance, "utterance", "start_time", "end_time")
        texts.append(checked_string(place, text, "utterance"))
        start, end = (checked_number(place, time, "a time in seconds", "missing times") for time in (start, end))
        if end < start:
            raise BadRecordError(
                "unordered times",
                place,
                f"{shown(text)} ends at {end} before it starts at {start}.",
                "Correct the times or skip the record.",
            )
        spans.append((start, end))
    return texts, np.array(spans, np.float64)


def _trace(where: str, traces: object, unordered_times: Literal["error", "sort"]) -> tuple[np.ndarray, np.ndarray]:
    """Times (n,) ascending and points (n, 2) of all segments together.

    Segments may come in any order (the reference sorts them); time running backwards within one is a broken record.
    """
    segments = []
    for index, segment in enumerate(checked_list(where, traces, "traces")):
        place = f"{where}, traces[{index}]"
        points = [
            [checked_number(place, value, "t, x or y of a point", "missing times") for value in values]
            for values in (required(place, point, "t", "x", "y") for point in checked_list(place, segment, "a trace"))
        ]
        array = np.array(points, np.float64).reshape(-1, 3)
        backwards = np.flatnonzero(np.diff(array[:, 0]) < 0)
        if unordered_times == "error" and len(backwards):
            at = int(backwards[0])
            raise BadRecordError(
                "unordered times",
                place,
                f"it goes back in time, from t={array[at, 0]} to t={array[at + 1, 0]} at point {at + 1}.",
                "Skip the record, or trust the times with unordered_times='sort'.",
            )
        segments.append(array)
    track = np.concatenate(segments) if segments else np.zeros((0, 3))
    if len(track) <= 1:
        raise BadRecordError(
            "no trace", where, f"the narrative has {len(track)} trace point(s).", "It needs two; skip the record."
        )
    track = track[np.argsort(track[:, 0], kind="stable")]
    return track[:, 0], track[:, 1:]
