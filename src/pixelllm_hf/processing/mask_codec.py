"""Binary masks as COCO run lengths and polygons, without pycocotools.

Run lengths count pixels column by column and start with the background; the compressed form packs them into printable
characters. All functions give what pycocotools gives, so files travel between the two.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

# Sizes and corners come from files, so they are bounded before memory is asked for: above any camera, and a mask of
# as many pixels stays below 300 MB.
MAX_MASK_PIXELS = 1 << 28
_MAX_OUTLINE = 10_000_000  # pixels along the outlines of one object

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
    Raises `MaskCodecError`.

    >>> decode_rle({"size": [2, 2], "counts": [0, 1, 2, 1]}).tolist()
    [[True, False], [False, True]]
    """
    height, width = rle_size(rle)
    if size_hw is not None and (height, width) != tuple(size_hw):
        raise MaskCodecError(
            f"the run-length mask has the size (H, W) = ({height}, {width}), but the image is {tuple(size_hw)}; "
            "it belongs to another image or to a resized copy."
        )
    counts = checked_counts(rle)
    values = np.zeros(len(counts), dtype=bool)
    values[1::2] = True
    return np.repeat(values, counts).reshape(width, height).T


def checked_counts(rle: Mapping[str, Any]) -> np.ndarray:
    """The run lengths (N,) int64 of a record in either form; those that do not fill its size are refused."""
    height, width = rle_size(rle)
    counts = rle_counts(rle)
    # Each is checked before they are added: a sum of huge ones may come round to the right number.
    if (counts < 0).any() or (counts > height * width).any() or counts.sum() != height * width:
        raise MaskCodecError(
            f"run lengths must be non-negative and add up to H * W = {height * width}, but the {len(counts)} ones here "
            f"do not; the size {[height, width]} is not the one it was encoded with, or the record is cut."
        )
    return counts


def rle_counts(rle: Mapping[str, Any]) -> np.ndarray:
    """The run lengths (N,) int64 of a record in either form."""
    counts = rle.get("counts")
    if isinstance(counts, (str, bytes)):
        return string_to_counts(counts)
    if counts is None:
        raise MaskCodecError(f"a run-length record needs the key 'counts', but has {sorted(map(str, rle))}.")
    array = _numbers(counts)
    if array is None or array.size and array.dtype.kind not in "iu":
        raise MaskCodecError("'counts' must be a string or a flat list of integers; for polygons use polygons_to_mask.")
    return array.astype(np.int64)


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
    """The union of flat polygons [x0, y0, x1, y1, ...] in pixels as a mask (H, W) bool, rasterised as COCO does.

    Raises `MaskCodecError`, also for sizes above `MAX_MASK_PIXELS` and for corners far outside the image.
    """
    height, width = _checked_size(size_hw)
    rings = [polygon_points(polygon, (height, width), f"polygon {i}") for i, polygon in enumerate(polygons)]
    outline = sum(float(np.abs(ring - np.roll(ring, -1, axis=0)).max(axis=1).sum()) for ring in rings)
    if outline > _MAX_OUTLINE:
        raise MaskCodecError(
            f"the outlines of {len(rings)} polygon(s) are {outline:.3g} pixels long in an image of {width} x {height}, "
            f"above the limit of {_MAX_OUTLINE:.3g}. Simplify them, or give run lengths."
        )
    columns = np.zeros(width * height, dtype=bool)  # column after column, as run lengths count
    for ring in rings:
        edges = _filled_from(ring, height, width)
        if len(edges) % 2:
            edges = np.append(edges, len(columns))
        if len(edges):
            inside = np.arange(len(edges) - 1) % 2 == 0
            columns[edges[0] : edges[-1]] |= np.repeat(inside, np.diff(edges))
    return columns.reshape(width, height).T


def polygon_points(polygon: Sequence[float], size_hw: tuple[int, int], name: str = "the polygon") -> np.ndarray:
    """The corners (N, 2) xy float64 of a flat polygon; what is none, or leaves the image far, is a `MaskCodecError`.

    Corners may lie outside the image, as hands leave it, by two of its longer sides and a thousand pixels more.
    """
    points = _numbers(polygon)
    if points is None or points.size < 6 or points.size % 2 or not np.isfinite(points).all():
        raise MaskCodecError(
            f"{name} must be a flat list x0, y0, x1, y1, ... of at least three finite points, but is "
            f"{'a ' + type(polygon).__name__ if points is None else points[:8].tolist()}; drop it or flatten it."
        )
    far = 3 * max(size_hw) + 1000
    if points.min() < -far or points.max() > far:
        raise MaskCodecError(
            f"{name} has a corner far outside the image: its coordinates go from {points.min():g} to {points.max():g}, "
            f"the image has the size (H, W) = {tuple(size_hw)}. Is it in pixels of this image?"
        )
    return points.astype(np.float64).reshape(-1, 2)


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


def rle_size(rle: Mapping[str, Any]) -> tuple[int, int]:
    """Height and width of a run-length record; what is no size, or above `MAX_MASK_PIXELS`, is a `MaskCodecError`."""
    size = rle.get("size")
    if not isinstance(size, Sequence) or isinstance(size, (str, bytes)) or len(size) != 2:
        raise MaskCodecError(f"a run-length record needs 'size': [height, width], but has a {type(size).__name__}.")
    return _checked_size(size)


def _checked_size(size_hw: Sequence[Any]) -> tuple[int, int]:
    for side in size_hw:
        if isinstance(side, bool) or not isinstance(side, (int, np.integer)) or not 0 <= side <= MAX_MASK_PIXELS:
            raise MaskCodecError(
                f"a mask's size must be two whole numbers [height, width] of 0 to {MAX_MASK_PIXELS}, but one is a "
                f"{type(side).__name__} that is none."
            )
    height, width = (int(side) for side in size_hw)
    if height * width > MAX_MASK_PIXELS:
        raise MaskCodecError(
            f"a mask of the size {height} x {width} is above the limit of {MAX_MASK_PIXELS} pixels. Scale it down."
        )
    return height, width


def _numbers(values: Any) -> np.ndarray | None:
    """(N,) of integers or floats, or None where it is not a flat list of numbers (letters, nulls, nested lists)."""
    try:
        array = np.asarray(values)
    except (TypeError, ValueError, OverflowError, RecursionError):
        return None
    return array if array.ndim == 1 and array.dtype.kind in "iuf" else None


def _filled_from(points_xy: np.ndarray, height: int, width: int) -> np.ndarray:
    """Where a polygon's inside begins, ends, begins, ... along the columns: ascending positions in 0..H*W.

    pycocotools' rleFrPoly: the outline on the finer grid, and one toggle wherever it passes from column to column.
    """
    corners = (_POLYGON_SCALE * points_xy + 0.5).astype(np.int64)  # truncation, as in the C code
    toggles = []
    for (xs, ys), (xe, ye) in zip(corners.tolist(), np.roll(corners, -1, axis=0).tolist(), strict=True):
        dx, dy = abs(xe - xs), abs(ye - ys)
        if dx == 0:
            continue  # it stays in its column
        flip = (dx >= dy and xs > xe) or (dx < dy and ys > ye)
        if flip:
            xs, xe, ys, ye = xe, xs, ye, ys
        steps = np.arange(max(dx, dy) + 1)
        if dx >= dy:
            u, v = steps + xs, (ys + (ye - ys) / dx * steps + 0.5).astype(np.int64)
        else:
            u, v = (xs + (xe - xs) / dy * steps + 0.5).astype(np.int64), steps + ys
        # The outline goes on where this edge ends, so that no column is passed between two edges.
        moved = np.flatnonzero(u[1:] != u[:-1]) + 1
        x = (np.minimum(u[moved], u[moved - 1]) + 0.5) / _POLYGON_SCALE - 0.5
        y = (np.minimum(v[moved], v[moved - 1]) + 0.5) / _POLYGON_SCALE - 0.5
        kept = (np.floor(x) == x) & (x >= 0) & (x <= width - 1)
        toggles.append((x[kept] * height + np.ceil(np.clip(y[kept], 0, height))).astype(np.int64))
    if not toggles:
        return np.zeros(0, dtype=np.int64)
    positions, times = np.unique(np.concatenate(toggles), return_counts=True)
    return positions[(times % 2 == 1) & (positions < height * width)]


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
