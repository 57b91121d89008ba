"""COCO segmentations of any kind -> the compressed run lengths that a grounded prompt carries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pixelllm_hf.data.grounded_examples import BadRecordError
from pixelllm_hf.processing.mask_codec import (
    MaskCodecError,
    counts_to_string,
    mask_to_counts,
    polygons_to_mask,
    rle_counts,
)


def checked_mask(where: str, segmentation: Any, size_wh: tuple[int, int]) -> dict[str, Any] | None:
    """The mask as {"size": [h, w], "counts": str} at the image's size, or None where the record has no object pixel.

    segmentation: polygons, run lengths or COCO's compressed string; what is none of these, is for an image of another
    size or does not add up to it is a `BadRecordError`.
    """
    width, height = (int(side) for side in size_wh)
    if segmentation is None or (isinstance(segmentation, Sequence) and not segmentation):
        return None
    if isinstance(segmentation, Mapping):
        size = segmentation.get("size")
        if not isinstance(size, Sequence) or list(size) != [height, width]:
            raise BadRecordError(
                "mask of another size",
                where,
                f"the run-length mask is for height, width {size}, the image has {[height, width]}.",
                "Correct the record.",
            )
    try:
        if isinstance(segmentation, Mapping):
            counts = rle_counts(segmentation)
            if (counts < 0).any() or counts.sum() != height * width:
                raise MaskCodecError(f"the run lengths add up to {int(counts.sum())}, not to {height} x {width}.")
        elif isinstance(segmentation, Sequence) and not isinstance(segmentation, str | bytes):
            counts = mask_to_counts(polygons_to_mask(segmentation, (height, width)))
        else:
            raise MaskCodecError(f"a segmentation is polygons or run lengths, but this is {segmentation!r:.80}.")
    except (MaskCodecError, TypeError) as error:
        raise BadRecordError("malformed mask", where, f"its mask cannot be read: {error}", "Correct it.") from error
    if not counts[1::2].any():
        return None
    return {"size": [height, width], "counts": counts_to_string(counts)}
