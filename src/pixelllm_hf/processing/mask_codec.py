"""Binary masks as COCO run lengths and polygons, without pycocotools.

Run lengths count pixels column by column and start with the background; the compressed form packs them into printable
characters. All functions give what pycocotools gives, so files travel between the two.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

_POLYGON_SCALE = 5  # pycocotools rasterises on a grid five times finer; equal masks need the same number


class MaskCodecError(ValueError):
    """A mask, run-length record or polygon that cannot be read as what it claims to be."""


def encode_rle(mask: np.ndarray, *, compressed: bool = True) -> dict[str, Any]:
    """The COCO run-length record of a mask.

    mask (H, W), bool or numbers (non-zero = object) -> {"size": [H, W], "counts": str}, or a list of counts when not
    compressed. JSON-serialisable either way.

    >>> encode_rle(np.eye(2, dtype=bool), compressed=False)
    {'size': [2, 2], 'counts': [0, 1, 2, 1]}
    """
    mask = np.asarray(mask)
    if mask.ndim != 2:
        raise MaskCodecError(
            f"a mask must have the shape (H, W), but came with shape {mask.shape}; encode them singly."
        )
    counts = mask_to_counts(mask)
    size = [int(mask.shape[0]), int(mask.shape[1])]
    return {"size": size, "counts": counts_to_string(counts) if compressed else counts.tolist()}


def decode_rle(rle: Mapping[str, Any], size_hw: tuple[int, int] | None = None) -> np.ndarray:
    """The mask (H, W) bool of a COCO run-length record, compressed (str or bytes) or not (list of counts).

    With `size_hw` the record must be of that size; a record whose counts do not add up to its own size is refused.

    >>> decode_rle({"size": [2, 2], "counts": [0, 1, 2, 1]}).tolist()
    [[True, False], [False, True]]
    """
    height, width = _record_size(rle)
    if size_hw is not None and (height, width) != tuple(size_hw):
        raise MaskCodecError(
            f"the run-length mask has the size (H, W) = ({height}, {width}), but the image is {tuple(size_hw)}; "
            "it belongs to another image or to a resized copy."
        )
    counts = rle_counts(rle)
    if (counts < 0).any() or counts.sum() != height * width:
        raise MaskCodecError(
            f"run lengths must be non-negative and add up to H * W = {height * width}, but they sum to "
            f"{int(counts.sum())}; the size {[height, width]} is not the one it was encoded with, or the record is cut."
        )
    values = np.zeros(len(counts), dtype=bool)
    values[1::2] = True
    return np.repeat(values, counts).reshape(width, height).T


def rle_counts(rle: Mapping[str, Any]) -> np.ndarray:
    """The run lengths (N,) int64 of a record in either form."""
    counts = rle.get("counts")
    if isinstance(counts, (str, bytes)):
        return string_to_counts(counts)
    if counts is None:
        raise MaskCodecError(f"a run-length record needs the key 'counts', but has {sorted(rle)}.")
    try:
        array = np.asarray(counts)
        if array.size and not np.issubdtype(array.dtype, np.integer):
            raise TypeError("not integers")
        return array.astype(np.int64).reshape(-1)
    except (TypeError, ValueError) as error:
        raise MaskCodecError(
            "'counts' must be a string or a list of integers; for polygons use polygons_to_mask."
        ) from error


def rle_area(rle: Mapping[str, Any]) -> int:
    """Number of object pixels."""
    return int(rle_counts(rle)[1::2].sum())


def mask_to_counts(mask: np.ndarray) -> np.ndarray:
    """mask (H, W) -> run lengths (N,) int64 in column order, background first (so the first may be 0)."""
    flat = np.asarray(mask).astype(bool, copy=False).ravel(order="F")
    if not flat.size:
        return np.zeros(0, dtype=np.int64)
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    edges = np.concatenate(([0], changes, [flat.size]) if not flat[0] else ([0, 0], changes, [flat.size]))
    return np.diff(edges)


def counts_to_string(counts: np.ndarray) -> str:
    """Run lengths as COCO's characters: from the fourth on as the difference to two before, five bits a character."""
    values = np.asarray(counts, dtype=np.int64).copy()
    values[3:] -= np.asarray(counts, dtype=np.int64)[1:-2]
    digits = np.ones(len(values), dtype=np.int64)  # enough five-bit digits for a signed number
    while True:
        limit = np.int64(1) << (5 * digits - 1)
        short = (values < -limit) | (values >= limit)
        if not short.any():
            break
        digits += short
    position = np.arange(digits.sum()) - np.repeat(np.cumsum(digits) - digits, digits)
    codes = (np.repeat(values, digits) >> (5 * position)) & 0x1F
    codes |= np.where(position < np.repeat(digits, digits) - 1, 0x20, 0)
    return (codes + 48).astype(np.uint8).tobytes().decode("ascii")


def string_to_counts(text: str | bytes) -> np.ndarray:
    """COCO's characters back to run lengths (N,) int64."""
    try:
        raw = text.encode("ascii") if isinstance(text, str) else bytes(text)
    except UnicodeEncodeError as error:
        raise MaskCodecError("a compressed run-length string must be plain ASCII; is this really an RLE?") from error
    codes = np.frombuffer(raw, dtype=np.uint8).astype(np.int64) - 48
    if not codes.size:
        return np.zeros(0, dtype=np.int64)
    if codes.min() < 0 or codes.max() > 63 or codes[-1] & 0x20:
        raise MaskCodecError(
            f"the compressed run-length string {raw[:24]!r}... holds characters outside '0'..'o' or ends in the middle "
            "of a number; it was cut or escaped on the way."
        )
    ends = np.flatnonzero((codes & 0x20) == 0)
    starts = np.concatenate(([0], ends[:-1] + 1))
    digits = ends - starts + 1
    if digits.max() > 12:
        raise MaskCodecError(f"a run length in {raw[:24]!r}... needs more than 60 bits; this is not a COCO RLE.")
    position = np.arange(len(codes)) - np.repeat(starts, digits)
    values = np.add.reduceat((codes & 0x1F) << (5 * position), starts)
    values -= np.where(codes[ends] & 0x10, np.int64(1) << (5 * digits), 0)  # sign of the last digit
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    return values


def polygons_to_mask(polygons: Sequence[Sequence[float]], size_hw: tuple[int, int]) -> np.ndarray:
    """The union of flat polygons [x0, y0, x1, y1, ...] in pixels as a mask (H, W) bool, rasterised as COCO does."""
    height, width = size_hw
    mask = np.zeros((height, width), dtype=bool)
    for i, polygon in enumerate(polygons):
        points = np.asarray(polygon, dtype=np.float64)
        if points.ndim != 1 or points.size < 6 or points.size % 2 or not np.isfinite(points).all():
            raise MaskCodecError(
                f"polygon {i} must be a flat list x0, y0, x1, y1, ... of at least three finite points, "
                f"but has the shape {points.shape}; drop it or flatten it."
            )
        mask |= _rasterise(points.reshape(-1, 2), height, width)
    return mask


def mask_to_polygons(mask: np.ndarray) -> list[list[float]]:
    """Outlines of a mask (H, W) as flat polygons [x0, y0, ...] along pixel edges, one per connected part.

    Rasterising them again gives the mask with its holes filled: COCO polygons cannot express holes.
    """
    mask = np.asarray(mask).astype(bool, copy=False)
    if mask.ndim != 2:
        raise MaskCodecError(
            f"a mask must have the shape (H, W), but came with shape {mask.shape}; convert them singly."
        )
    polygons = []
    for ring in _edge_rings(mask):
        x, y = ring[:, 0], ring[:, 1]
        signed_area = float((x * np.roll(y, -1) - np.roll(x, -1) * y).sum())
        if signed_area > 0:  # rings of holes run the other way round
            polygons.append(ring.astype(float).ravel().tolist())
    return polygons


def segmentation_to_mask(segmentation: Any, size_hw: tuple[int, int]) -> np.ndarray:
    """A COCO `segmentation` of any kind (polygons, compressed or plain run lengths) as a mask (H, W) bool."""
    if isinstance(segmentation, Mapping):
        return decode_rle(segmentation, size_hw)
    if isinstance(segmentation, Sequence) and not isinstance(segmentation, (str, bytes)):
        return polygons_to_mask(segmentation, size_hw)
    raise MaskCodecError(
        f"a segmentation must be a list of polygons or a run-length record, but is a {type(segmentation).__name__}."
    )


def _record_size(rle: Mapping[str, Any]) -> tuple[int, int]:
    size = rle.get("size")
    if not isinstance(size, Sequence) or len(size) != 2 or min(size) < 0:
        raise MaskCodecError(f"a run-length record needs 'size': [height, width], but it is {size!r}.")
    return int(size[0]), int(size[1])


def _rasterise(points_xy: np.ndarray, height: int, width: int) -> np.ndarray:
    corners = (_POLYGON_SCALE * points_xy + 0.5).astype(np.int64)  # truncation, as in the C code
    us, vs = [], []
    for (xs, ys), (xe, ye) in zip(corners.tolist(), np.roll(corners, -1, axis=0).tolist(), strict=True):
        dx, dy = abs(xe - xs), abs(ye - ys)
        if dx == 0 and dy == 0:
            continue
        flip = (dx >= dy and xs > xe) or (dx < dy and ys > ye)
        if flip:
            xs, xe, ys, ye = xe, xs, ye, ys
        steps = np.arange(max(dx, dy) + 1)
        steps = steps[::-1] if flip else steps
        if dx >= dy:
            us.append(steps + xs)
            vs.append((ys + (ye - ys) / dx * steps + 0.5).astype(np.int64))
        else:
            us.append((xs + (xe - xs) / dy * steps + 0.5).astype(np.int64))
            vs.append(steps + ys)
    if not us:
        return np.zeros((height, width), dtype=bool)
    u, v = np.concatenate(us), np.concatenate(vs)
    moved = np.flatnonzero(u[1:] != u[:-1]) + 1
    x = (np.minimum(u[moved], u[moved - 1]) + 0.5) / _POLYGON_SCALE - 0.5
    y = (np.minimum(v[moved], v[moved - 1]) + 0.5) / _POLYGON_SCALE - 0.5
    kept = (np.floor(x) == x) & (x >= 0) & (x <= width - 1)
    toggles = (x[kept] * height + np.ceil(np.clip(y[kept], 0, height))).astype(np.int64)
    parity = np.bincount(toggles, minlength=height * width + 1)[: height * width]
    return (np.cumsum(parity) % 2).astype(bool).reshape(width, height).T


def _edge_rings(mask: np.ndarray) -> list[np.ndarray]:
    """Closed walks along pixel edges with the object on the right hand, corners only; (K, 2) xy each."""
    padded = np.pad(mask, 1)
    inside = padded[1:-1, 1:-1]
    follow: dict[tuple[int, int], list[tuple[int, int]]] = {}

    def add(pixels: np.ndarray, start: tuple[int, int], end: tuple[int, int]) -> None:
        for y, x in np.argwhere(pixels).tolist():
            follow.setdefault((x + start[0], y + start[1]), []).append((x + end[0], y + end[1]))

    add(inside & ~padded[:-2, 1:-1], (0, 0), (1, 0))  # top edges run right
    add(inside & ~padded[1:-1, 2:], (1, 0), (1, 1))  # right edges run down
    add(inside & ~padded[2:, 1:-1], (1, 1), (0, 1))  # bottom edges run left
    add(inside & ~padded[1:-1, :-2], (0, 1), (0, 0))  # left edges run up
    rings = []
    while follow:
        start = here = next(iter(follow))
        direction = (0, 0)
        ring = []
        while True:
            ends = follow[here]
            # where two parts touch at a corner, turn right: each part stays a ring of its own
            right = (here[0] - direction[1], here[1] + direction[0])
            there = right if len(ends) > 1 and right in ends else ends[0]
            ends.remove(there)
            if not ends:
                del follow[here]
            step = (there[0] - here[0], there[1] - here[1])
            if step != direction:
                ring.append(here)
            direction, here = step, there
            if here == start:
                break
        if len(ring) > 4 and (ring[0][0] - ring[-1][0] == 0) == (ring[1][0] - ring[0][0] == 0):
            ring = ring[1:]  # the walk began in the middle of a side
        rings.append(np.array(ring))
    return rings
