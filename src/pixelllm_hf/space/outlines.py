"""Outlines of masks that a page can draw: few corners, bounded work whatever the mask."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from PIL import Image

from pixelllm_hf.processing.mask_codec import mask_to_polygons

_GRID_SIDE = 384  # masks are traced on a grid of at most this many cells a side; the heads' own are coarser
_MOST_PARTS = 16  # the largest ones
_MOST_CORNERS = 300  # of one part
_TOLERANCE = 0.4  # cells that a corner may lie off the line that replaces it
_SMOOTHING = 7  # steps along the outline that are averaged: takes the stairs away, rounds corners by a cell or two


def mask_outlines(mask: np.ndarray) -> list[list[float]]:
    """mask (H, W) bool -> outlines [x0, y0, x1, y1, ...] of its largest parts, pixels of the mask's image.

    Holes are filled, as in COCO's polygons. An empty mask has none.
    """
    mask = np.asarray(mask, dtype=bool)
    height, width = mask.shape
    if not mask.any():
        return []
    cells = _coarse(mask)
    stretch = np.array([width / cells.shape[1], height / cells.shape[0]])
    rings = [np.reshape(ring, (-1, 2)) for ring in mask_to_polygons(cells)]
    rings = sorted(rings, key=_area, reverse=True)[:_MOST_PARTS]
    # A part of a few cells would lose its body together with its stairs.
    simple = [_few_corners(_smooth(ring)) if _area(ring) > 50 else ring for ring in rings]
    return [np.round(ring * stretch, 1).ravel().tolist() for ring in simple]


def _smooth(ring: np.ndarray) -> np.ndarray:
    """A ring along cell edges as one of unit steps, each point the mean of those around it."""
    sides = np.roll(ring, -1, axis=0) - ring
    lengths = np.abs(sides).sum(axis=1).astype(int)
    side = np.repeat(np.arange(len(ring)), lengths)
    along = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    steps = ring[side] + np.sign(sides[side]) * along[:, None]
    reach = _SMOOTHING // 2
    return np.mean([np.roll(steps, shift, axis=0) for shift in range(-reach, reach + 1)], axis=0)


def _few_corners(ring: np.ndarray) -> np.ndarray:
    tolerance = _TOLERANCE
    while len(simple := simplify_ring(ring, tolerance)) > _MOST_CORNERS:  # a frayed one
        tolerance *= 1.5
    return simple


def simplify_ring(ring: np.ndarray, tolerance: float) -> np.ndarray:
    """ring (N, 2), closed -> three or more of its corners; every other lies within `tolerance` of the new lines.

    Ramer's and Douglas and Peucker's way, from three corners that lie far apart.
    """
    far = int(np.argmax(((ring - ring[0]) ** 2).sum(axis=1)))
    third = int(np.argmax(_distances(ring, ring[0], ring[far])))
    closed = np.concatenate([ring, ring[:1]])
    kept = np.zeros(len(closed), dtype=bool)
    starts = sorted({0, far, third})
    kept[starts] = True
    spans = list(pairwise([*starts, len(ring)]))
    while spans:
        first, last = spans.pop()
        if last - first < 2:
            continue
        off = _distances(closed[first + 1 : last], closed[first], closed[last])
        if off.max() > tolerance:
            middle = first + 1 + int(np.argmax(off))
            kept[middle] = True
            spans += [(first, middle), (middle, last)]
    return closed[:-1][kept[:-1]]


def _coarse(mask: np.ndarray) -> np.ndarray:
    """The mask on the grid: a cell is set where most of it is; a mask too thin for that where anything is."""
    height, width = mask.shape
    scale = min(1.0, _GRID_SIDE / max(height, width))
    if scale == 1:
        return mask
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    share = np.asarray(Image.fromarray(mask.astype(np.uint8) * 255).resize(size, Image.Resampling.BOX))
    cells = share >= 128
    return cells if cells.any() else share >= max(1, int(share.max()))


def _area(ring: np.ndarray) -> float:
    x, y = ring[:, 0], ring[:, 1]
    return abs(float((x * np.roll(y, -1) - np.roll(x, -1) * y).sum())) / 2


def _distances(points: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Of points (N, 2) from the segment between two others (N,)."""
    along = end - start
    length = float((along**2).sum())
    if length == 0:
        return np.sqrt(((points - start) ** 2).sum(axis=1))
    share = np.clip(((points - start) @ along) / length, 0, 1)
    return np.sqrt(((points - start - share[:, None] * along) ** 2).sum(axis=1))
