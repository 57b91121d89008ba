"""Masks as run lengths and polygons, held to hand-worked examples, round trips and (where it imports) pycocotools."""

from __future__ import annotations

import json

import numpy as np
import pytest

from pixelllm_hf.processing.mask_codec import (
    MaskCodecError,
    counts_to_string,
    decode_rle,
    encode_rle,
    mask_to_polygons,
    polygons_to_mask,
    rle_area,
    segmentation_to_mask,
    string_to_counts,
)


def random_masks(seed: int = 0, count: int = 40) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    masks = [np.zeros((7, 5), bool), np.ones((7, 5), bool), np.eye(9, dtype=bool), np.ones((1, 1), bool)]
    for _ in range(count):
        height, width = rng.integers(1, 90, 2)
        coarse = rng.random((height // 7 + 1, width // 7 + 1)) < rng.uniform(0.1, 0.9)
        masks.append(np.kron(coarse, np.ones((7, 7), bool))[:height, :width])
        masks.append(rng.random((height, width)) < rng.uniform(0, 1))
    masks.append(np.zeros((700, 900), bool))  # run lengths of several characters
    return masks


@pytest.mark.parametrize("compressed", [True, False])
def test_a_mask_survives_the_round_trip_through_json(compressed):
    for mask in random_masks():
        record = json.loads(json.dumps(encode_rle(mask, compressed=compressed)))
        np.testing.assert_array_equal(decode_rle(record, mask.shape), mask)
        assert rle_area(record) == mask.sum()


def test_counts_run_down_the_columns_and_begin_with_the_background():
    mask = np.array([[0, 1, 1], [0, 0, 1]], dtype=np.uint8)
    assert encode_rle(mask, compressed=False) == {"size": [2, 3], "counts": [2, 1, 1, 2]}
    assert encode_rle(1 - mask, compressed=False)["counts"] == [0, 2, 1, 1, 2]


def test_the_compressed_string_is_the_one_of_pycocotools():
    api = pytest.importorskip("pycocotools.mask")
    for mask in random_masks(1):
        theirs = api.encode(np.asfortranarray(mask.astype(np.uint8)))
        assert encode_rle(mask)["counts"] == theirs["counts"].decode()
        np.testing.assert_array_equal(decode_rle(theirs), mask)


def test_big_and_falling_counts_survive_the_string():
    rng = np.random.default_rng(2)
    counts = rng.integers(0, 2 ** rng.integers(1, 31, 500))
    np.testing.assert_array_equal(string_to_counts(counts_to_string(counts)), counts)


def test_polygons_rasterise_as_pycocotools_does():
    api = pytest.importorskip("pycocotools.mask")
    rng = np.random.default_rng(3)
    for _ in range(60):
        height, width = (int(v) for v in rng.integers(5, 80, 2))
        corners = rng.uniform(-5, 85, (int(rng.integers(3, 9)), 2)).round(2)
        polygons = [corners.ravel().tolist(), rng.uniform(0, 60, 6).tolist()]
        theirs = api.decode(api.merge(api.frPyObjects(polygons, height, width))).astype(bool)
        np.testing.assert_array_equal(polygons_to_mask(polygons, (height, width)), theirs)


def test_outlines_fill_to_the_same_mask_when_it_has_no_holes():
    y, x = np.mgrid[:60, :80]
    disc = (x - 30) ** 2 + (y - 25) ** 2 < 300
    corner_to_corner = np.zeros((10, 10), bool)
    corner_to_corner[2:5, 2:5] = corner_to_corner[5:8, 5:8] = True
    for mask in (disc, disc | (x > 70), np.ones((4, 6), bool), corner_to_corner, np.zeros((3, 3), bool)):
        np.testing.assert_array_equal(polygons_to_mask(mask_to_polygons(mask), mask.shape), mask)
    assert len(mask_to_polygons(disc | (x > 70))) == 2
    assert len(mask_to_polygons(corner_to_corner)) == 2


def test_outlines_fill_the_holes():
    ring = np.zeros((9, 9), bool)
    ring[2:7, 2:7] = True
    filled = ring.copy()
    ring[4, 4] = False
    np.testing.assert_array_equal(polygons_to_mask(mask_to_polygons(ring), ring.shape), filled)


def test_any_coco_segmentation_becomes_a_mask():
    mask = np.zeros((12, 10), bool)
    mask[3:8, 2:9] = True
    kinds = (encode_rle(mask), encode_rle(mask, compressed=False), mask_to_polygons(mask))
    for segmentation in kinds:
        np.testing.assert_array_equal(segmentation_to_mask(segmentation, mask.shape), mask)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"size": [2, 2], "counts": [1, 1]}, "add up to"),
        ({"size": [2, 2], "counts": [5, -1]}, "non-negative"),
        ({"size": [2, 3], "counts": [6]}, "another image"),
        ({"size": [2, 2], "counts": "~~"}, "cut or escaped"),
        ({"size": [2, 2], "counts": "P"}, "cut or escaped"),
        ({"size": [2, 2], "counts": "\u00e9"}, "ASCII"),
        ({"size": [2, 2], "counts": "o" * 20 + "1"}, "60 bits"),
        ({"size": [2, 2], "counts": [1.5, 2.5]}, "list of integers"),
        ({"size": [2, 2]}, "'counts'"),
        ({"counts": [4]}, "'size'"),
    ],
)
def test_a_record_that_is_not_what_it_claims_is_refused_with_the_reason(record, message):
    with pytest.raises(MaskCodecError, match=message):
        decode_rle(record, (2, 2))


def test_a_polygon_of_two_points_is_refused():
    with pytest.raises(MaskCodecError, match="polygon 1"):
        polygons_to_mask([[0, 0, 5, 0, 5, 5], [0, 0, 1, 1]], (8, 8))
    with pytest.raises(MaskCodecError, match="shape"):
        encode_rle(np.zeros((2, 3, 4)))
    with pytest.raises(MaskCodecError, match="segmentation"):
        segmentation_to_mask("abc", (2, 2))


@pytest.mark.parametrize(
    "size", [[100_000, 100_000], [2**20, 2**20], ["4", "4"], [float("inf"), 4], [None, None], [10**400, 0], [True, 16]]
)
def test_a_size_is_checked_before_memory_is_asked_for(size):
    with pytest.raises(MaskCodecError, match="size"):
        decode_rle({"size": size, "counts": [16]})


def test_run_lengths_whose_sum_comes_round_to_the_size_are_refused():
    wraps = [2**62, 2**62, 2**62, 2**62 + 16]
    with pytest.raises(MaskCodecError, match="add up to"):
        decode_rle({"size": [4, 4], "counts": wraps})


@pytest.mark.parametrize(
    "ring",
    [[0, 0, 1e9, 0, 1e9, 1e9], [-1e18, 0, 1e18, 0, 5, 5], ["a"] * 6, ["1"] * 6, [10**400] * 6, [None] * 6, {"a": 1}]
    + [[[1, 2], [3, 4], [5, 6]], [True] * 6, [float("nan")] * 6],
)
def test_a_ring_that_is_none_or_lies_elsewhere_is_refused(ring):
    with pytest.raises(MaskCodecError, match="polygon 1"):
        polygons_to_mask([[0, 0, 5, 0, 5, 5], ring], (10, 10))


def test_an_outline_of_a_thousand_kilometres_is_refused():
    zigzag = [[0, 0, 4000, 1] * 3000]
    with pytest.raises(MaskCodecError, match="outlines"):
        polygons_to_mask(zigzag, (10, 1000))


def test_a_ring_may_leave_the_image_a_little():
    inside = polygons_to_mask([[-300, 2, 400, 2, 400, 5, -300, 5]], (10, 10))
    np.testing.assert_array_equal(inside, polygons_to_mask([[0, 2, 10, 2, 10, 5, 0, 5]], (10, 10)))
