"""COCO segmentations of any kind -> the compressed run lengths that a grounded prompt carries."""

from __future__ import annotations

from typing import Any

import numpy as np

from pixelllm_hf.data.bad_records import BadRecordError, OnError, ReadReport
from pixelllm_hf.data.record_fields import shown
from pixelllm_hf.processing.mask_codec import (
    MaskCodecError,
    checked_counts,
    counts_to_string,
    mask_to_counts,
    polygon_points,
    polygons_to_mask,
)


def checked_mask(
    where: str, segmentation: Any, size_wh: tuple[int, int], report: ReadReport, on_error: OnError
) -> dict[str, Any] | None:
    """The mask as {"size": [h, w], "counts": str} at the image's size, or None where the record has no object pixel.

    segmentation: polygons, run lengths or COCO's compressed string; what is none of these, is for an image of another
    size or does not add up to it is a `BadRecordError`. Of several polygons the bad ones are dropped alone and counted.
    """
    segmentation = usable_segmentation(where, segmentation, size_wh, report, on_error)
    if segmentation is None:
        return None
    if isinstance(segmentation, dict):
        return run_lengths(where, segmentation, size_wh)
    try:
        mask = polygons_to_mask(segmentation, size_wh[::-1])
    except MaskCodecError as error:
        raise _malformed(where, error) from error
    return _record(mask_to_counts(mask), size_wh)


def target_mask(
    where: str, segmentation: Any, size_wh: tuple[int, int], report: ReadReport, on_error: OnError
) -> dict[str, Any]:
    """As `checked_mask`, of an object that must have one; a segmentation that covers no pixel is an empty mask."""
    if segmentation is None or segmentation == []:
        raise BadRecordError("missing mask", where, "the object has no segmentation.", "Add it or skip the record.")
    mask = checked_mask(where, segmentation, size_wh, report, on_error)
    return mask or {"size": [size_wh[1], size_wh[0]], "counts": counts_to_string(np.array([size_wh[0] * size_wh[1]]))}


def usable_segmentation(
    where: str, segmentation: Any, size_wh: tuple[int, int], report: ReadReport, on_error: OnError
) -> dict[str, Any] | list[list[float]] | None:
    """Run lengths as they are; polygons without those that are none, which are counted; None where there is no mask."""
    if segmentation is None or segmentation == []:
        return None
    if isinstance(segmentation, dict):
        return segmentation
    if not isinstance(segmentation, list):
        raise _malformed(where, f"a segmentation is polygons or run lengths, but this is {shown(segmentation)}.")
    rings, bad = [], []
    for index, ring in enumerate(segmentation):
        try:
            rings.append(polygon_points(ring, size_wh[::-1], f"polygon {index}").ravel().tolist())
        except MaskCodecError as error:
            bad.append(error)
    if not rings:
        raise _malformed(where, bad[0])
    for problem in bad:
        report.drop(BadRecordError("malformed polygon", where, str(problem), "The others were kept."), on_error)
    return rings


def run_lengths(where: str, record: dict[str, Any], size_wh: tuple[int, int]) -> dict[str, Any] | None:
    """A run-length record in its compressed form; None where it has no object pixel."""
    width, height = size_wh
    size = record.get("size")
    if not isinstance(size, list | tuple) or list(size) != [height, width]:
        raise BadRecordError(
            "mask of another size",
            where,
            f"the run-length mask is for height, width {shown(size)}, the image has {[height, width]}.",
            "Correct the record.",
        )
    try:
        counts = checked_counts(record)
    except MaskCodecError as error:
        raise _malformed(where, error) from error
    return _record(counts, size_wh)


def _record(counts: Any, size_wh: tuple[int, int]) -> dict[str, Any] | None:
    if not counts[1::2].any():
        return None
    return {"size": [size_wh[1], size_wh[0]], "counts": counts_to_string(counts)}


def _malformed(where: str, problem: object) -> BadRecordError:
    return BadRecordError("malformed mask", where, f"its mask cannot be read: {problem}", "Correct it.")
