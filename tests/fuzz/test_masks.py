"""Run lengths and polygons of any content: a mask of the image's size, or `MaskCodecError`, in little memory."""

from __future__ import annotations

import json
import random
from typing import Any

import numpy as np

from pixelllm_hf.processing.mask_codec import MaskCodecError, encode_rle, mask_to_polygons, segmentation_to_mask

SIZE_HW = (30, 40)


def test_damaged_segmentations_are_refused_or_masks_of_the_image(fuzz, fuzz_inputs):
    mask = np.zeros(SIZE_HW, bool)
    mask[5:20, 8:30] = True
    whole = [encode_rle(mask), encode_rle(mask, compressed=False), mask_to_polygons(mask)]

    def make(chance: random.Random) -> Any:
        try:
            return json.loads(fuzz.as_json(fuzz.damaged(chance.choice(whole), chance)))
        except (ValueError, RecursionError):  # a value that only files can hold
            return chance.choice(fuzz.HOSTILE)

    def attempt(segmentation: Any) -> None:
        result = segmentation_to_mask(segmentation, SIZE_HW)
        fuzz.must(result.shape == SIZE_HW and result.dtype == bool, f"{result.shape} {result.dtype}")
        fuzz.must(encode_rle(result)["size"] == list(SIZE_HW), "it cannot be encoded")

    fuzz.run(attempt, make, fuzz_inputs, typed=[MaskCodecError], megabytes=256).check()
