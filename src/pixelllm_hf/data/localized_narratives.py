"""Localized Narratives, official still-image JSONL -> grounded rows (spec section 11.1).

One narrative a line: caption, timed caption, mouse traces in 0..1 of the image with times in seconds.
"""

from __future__ import annotations

import glob
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from datasets import Dataset, IterableDataset

from pixelllm_hf.data.grounded_examples import (
    BadRecordError,
    ImageFolder,
    OnError,
    ReadReport,
    build_dataset,
    check_on_error,
    grounded_prompt,
    required,
)
from pixelllm_hf.data.trace_alignment import sample_trace, utterance_boxes, utterance_centers

_KEYS = {"dataset_id", "image_id", "annotator_id", "caption", "timed_caption", "traces", "voice_recording"}


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

    annotations: JSONL file(s) or glob pattern. images: folder of the image files; without it rows have no image and
    their pixel frame is the unit square (width = height = 1).
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
            with open(file, encoding="utf-8") as lines:
                for number, line in enumerate(lines, 1):
                    if not line.strip():
                        continue
                    report.read["narratives"] += 1
                    try:
                        yield _row(f"{file}, line {number}", line, folder, known, unordered_times)
                    except BadRecordError as error:
                        report.drop(error, on_error)

    return build_dataset(rows, streaming=streaming, report=report)


def annotation_files(annotations: str | Path | Sequence[str | Path]) -> list[Path]:
    """The files that a path, a glob pattern or a list of these names, sorted; none at all is an error."""
    patterns = [annotations] if isinstance(annotations, str | Path) else list(annotations)
    files: list[Path] = []
    for pattern in patterns:
        path = Path(pattern)
        found = [path] if path.is_file() else sorted(Path(name) for name in glob.glob(str(pattern)))
        if not found:
            raise FileNotFoundError(f"no annotation file matches {str(pattern)!r}. Check the path.")
        files += found
    return files


def _row(
    where: str, line: str, folder: ImageFolder | None, known: set[str], unordered_times: Literal["error", "sort"]
) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise BadRecordError("not JSON", where, f"the line is not JSON ({error}).", "Is the file complete?") from error
    image_id, caption, timed_caption, traces = required(where, record, "image_id", "caption", "timed_caption", "traces")
    unknown = sorted(set(record) - known)
    if unknown:
        raise BadRecordError(
            "unknown key",
            where,
            f"the record has unknown key(s) {unknown}.",
            f"Localized Narratives have {sorted(_KEYS)}; let more pass with ignore_keys={tuple(unknown)!r}.",
        )
    if not isinstance(caption, str) or not caption.strip():
        raise BadRecordError("empty caption", where, f"the caption is {caption!r}.", "Add the text or skip the record.")
    texts, spans = _utterances(where, timed_caption)
    times, points = _trace(where, traces, unordered_times)
    path = folder.find(where, image_id) if folder else None
    width, height = ImageFolder.size_wh(where, path) if path else (1, 1)
    sampled = sample_trace(times, points, spans)
    boxes = utterance_boxes(sampled) * [width, height, width, height]
    centers = utterance_centers(sampled, spans) * [width, height]
    utterances = [
        {"text": text, "box": box, "center": center}
        for text, box, center in zip(texts, boxes.tolist(), centers.tolist(), strict=True)
    ]
    return {
        "image": str(path) if path else None,
        "image_id": str(image_id),
        "width": width,
        "height": height,
        "task": "trace",
        "prompts": [grounded_prompt(caption.strip(), utterances=utterances, point_loss=True)],
    }


def _utterances(where: str, timed_caption: object) -> tuple[list[str], np.ndarray]:
    """Texts and (U, 2) time spans."""
    if not isinstance(timed_caption, list) or not timed_caption:
        raise BadRecordError(
            "no timed caption", where, f"timed_caption is {str(timed_caption)[:80]!r}.", "Skip the record."
        )
    texts, spans = [], []
    for index, utterance in enumerate(timed_caption):
        text, start, end = required(
            f"{where}, timed_caption[{index}]", utterance, "utterance", "start_time", "end_time"
        )
        if not _is_time(start) or not _is_time(end):
            raise BadRecordError(
                "missing times",
                where,
                f"timed_caption[{index}] ({text!r}) has start_time {start!r} and end_time {end!r}.",
                "Times are seconds; correct them or skip the record.",
            )
        if end < start:
            raise BadRecordError(
                "unordered times",
                where,
                f"timed_caption[{index}] ({text!r}) ends at {end} before it starts at {start}.",
                "Correct the times or skip the record.",
            )
        texts.append(str(text))
        spans.append((start, end))
    return texts, np.array(spans, np.float64)


def _trace(where: str, traces: object, unordered_times: Literal["error", "sort"]) -> tuple[np.ndarray, np.ndarray]:
    """Times (n,) ascending and points (n, 2) of all segments together.

    Segments may come in any order (the reference sorts them); time running backwards within one is a broken record.
    """
    if not isinstance(traces, list):
        raise BadRecordError("malformed trace", where, f"traces is {type(traces).__name__}.", "It must be a list.")
    segments = []
    for index, segment in enumerate(traces):
        points = [required(f"{where}, traces[{index}]", point, "t", "x", "y") for point in segment]
        bad = next((point for point in points if not all(_is_time(value) for value in point)), None)
        if bad is not None:
            raise BadRecordError(
                "missing times",
                where,
                f"traces[{index}] has a point with t, x, y = {list(bad)}.",
                "All three must be finite numbers; correct it or skip the record.",
            )
        array = np.array(points, np.float64).reshape(-1, 3)
        backwards = np.flatnonzero(np.diff(array[:, 0]) < 0)
        if unordered_times == "error" and len(backwards):
            at = int(backwards[0])
            raise BadRecordError(
                "unordered times",
                where,
                f"traces[{index}] goes back in time, from t={array[at, 0]} to t={array[at + 1, 0]} at point {at + 1}.",
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


def _is_time(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
