"""Where the objects of a scene go, how they are drawn, and what is then true of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from PIL import Image

from .library import COLORS, ObjectLibrary, Sprite

IMAGE_SIDES = (224, 320)  # px, the longer one
SHORTEST_ASPECT = 0.68  # shorter / longer side
SIZE_BANDS = {"small": (0.20, 0.25), "": (0.29, 0.36), "big": (0.43, 0.54)}  # of the longer image side, drawn
SMALL_BELOW, BIG_ABOVE = 0.262, 0.40  # of the longer image side, the longer side of the visible box
VISIBLE_SHARE = 0.65
ROOMY_VISIBLE_SHARE = 0.95  # asked for first, so that occlusion happens but is not the rule
MAX_INSTANCES = 6
SAME_GAP = 0.12  # of the longer image side, between equal objects that are not a group
ORDER_GAP = 0.06  # of the image width, between the centres of two things named one after the other


Box = tuple[int, int, int, int]  # x0, y0, x1, y1 in image pixels, the last two exclusive


@dataclass(frozen=True, eq=False)
class SceneObject:
    """One visible thing. `box_xyxy` (visible pixels) and `mask` are in image pixels, x1/y1 exclusive."""

    index: int
    name: str
    color: str | None
    size: str  # "small", "big" or ""
    box_xyxy: Box
    visible_share: float  # of its drawn pixels
    owner: np.ndarray  # (H, W) uint8 of the scene: index + 1 where an object is on top

    @cached_property
    def mask(self) -> np.ndarray:
        """(H, W) bool, the visible pixels."""
        return self.owner == self.index + 1

    @cached_property
    def area(self) -> int:
        """Visible pixels."""
        return int(np.count_nonzero(self.mask))

    @property
    def center_xy(self) -> tuple[float, float]:
        x0, y0, x1, y1 = self.box_xyxy
        return (x0 + x1) / 2, (y0 + y1) / 2

    @property
    def longest(self) -> int:
        x0, y0, x1, y1 = self.box_xyxy
        return max(x1 - x0, y1 - y0)


@dataclass(frozen=True, eq=False)
class Entity:
    """What one phrase of a caption names: a single object, or a group of equal ones side by side."""

    objects: tuple[SceneObject, ...]
    name: str
    plural: str
    color: str | None
    size: str
    box_xyxy: Box

    @property
    def count(self) -> int:
        return len(self.objects)

    @property
    def center_xy(self) -> tuple[float, float]:
        x0, y0, x1, y1 = self.box_xyxy
        return (x0 + x1) / 2, (y0 + y1) / 2


@dataclass(frozen=True, eq=False)
class Composition:
    """A drawn scene: image, objects, and the entities from left to right."""

    image: Image.Image
    objects: tuple[SceneObject, ...]
    entities: tuple[Entity, ...]


@dataclass
class _Part:
    """One thing to place: a sprite for each member, all of one name, colour and size."""

    sprite: Sprite
    color: str | None
    band: str
    count: int = 1


@dataclass
class _Placed:
    part: int
    box: Box  # of the drawn patch
    total: int  # its pixels, hidden or not
    patch: np.ndarray  # (h, w, 4) premultiplied uint8


def compose(
    rng: np.random.Generator, library: ObjectLibrary, paint_background: Callable[[tuple[int, int]], np.ndarray]
) -> Composition:
    """Draw one scene. `paint_background(size_wh)` gives (H, W, 3) uint8; all other choices come from `rng`."""
    size_wh = _choose_image_size(rng)
    while True:  # a crowded draw may leave a single object; start over, it is rare
        parts = _choose_parts(rng, library)
        canvas = _Canvas(size_wh)
        order = sorted(range(len(parts)), key=lambda i: -_extent(parts[i]))
        for i in order:
            canvas.place(rng, i, parts)
        if len({p.part for p in canvas.placed}) >= min(2, len(parts)):
            break
    return canvas.finish(paint_background(size_wh), parts)


def _choose_image_size(rng: np.random.Generator) -> tuple[int, int]:
    long = int(rng.integers(IMAGE_SIDES[0], IMAGE_SIDES[1] + 1))
    short = int(round(long * rng.uniform(SHORTEST_ASPECT, 1.0)))
    return (long, short) if rng.random() < 0.6 else (short, long)


def _choose_parts(rng: np.random.Generator, library: ObjectLibrary) -> list[_Part]:
    wanted = min(int(rng.choice([2, 3, 4, 5], p=[0.2, 0.35, 0.3, 0.15])), max(2, len(library)))
    chance = rng.random()
    has_group = chance < 0.22
    has_twin = not has_group and chance < 0.56
    distinct = wanted - 1 if has_twin else wanted
    names: list[str] = []
    while len(names) < min(distinct, len(library)):
        pool = library.colorable_names if library.colorable_names and rng.random() < 0.25 else library.names
        if names == [] and has_twin and library.colorable_names and rng.random() < 0.35:
            pool = library.colorable_names  # twins told apart by colour
        name = pool[rng.integers(len(pool))]
        if name not in names:
            names.append(name)
        elif len(library) <= len(names):
            break
        elif pool is not library.names and len(library.colorable_names) <= len(names):
            continue
    parts = [_choose_part(rng, library, name) for name in names]
    if has_group:
        parts[0].count = int(rng.integers(2, 4)) if wanted <= 4 else 2
        parts[0].band = "small" if rng.random() < 0.6 or parts[0].count == 3 else ""
    if has_twin:
        parts.insert(1, _choose_twin(rng, library, parts[0]))
    if sum(p.band == "big" for p in parts) > 1:  # two big things fill the image
        for part in [p for p in parts if p.band == "big"][1:]:
            part.band = ""
    return parts


def _choose_part(rng: np.random.Generator, library: ObjectLibrary, name: str) -> _Part:
    sprites = library.sprites(name)
    sprite = sprites[rng.integers(len(sprites))]
    color = tuple(COLORS)[rng.integers(len(COLORS))] if sprite.colorable else None
    band = ("small", "", "big")[int(rng.choice(3, p=[0.3, 0.45, 0.25]))]
    return _Part(sprite, color, band)


def _choose_twin(rng: np.random.Generator, library: ObjectLibrary, first: _Part) -> _Part:
    """A second thing of the same name: another colour, another size, or only another place."""
    twin = _choose_part(rng, library, first.sprite.name)
    kind = rng.random()
    if first.color is not None and kind < 0.6:
        others = [c for c in COLORS if c != first.color]
        twin.color = others[rng.integers(len(others))]
    else:
        twin.color = first.color
    if kind > 0.55:  # sizes that nobody confuses
        first.band, twin.band = ("small", "big") if rng.random() < 0.5 else ("big", "small")
    elif kind > 0.3:
        twin.band = first.band = first.band if first.band != "big" else ""
    return twin


def _extent(part: _Part) -> float:
    return SIZE_BANDS[part.band][1] * part.count


class _Canvas:
    """Places patches one over the other and keeps count of what stays visible."""

    TRIES, ROOMY_TRIES = 25, 25

    def __init__(self, size_wh: tuple[int, int]):
        self.width, self.height = size_wh
        self.long = max(size_wh)
        self.owner = np.zeros((self.height, self.width), dtype=np.uint8)
        self.placed: list[_Placed] = []
        self.visible: list[int] = []
        self.centers: list[tuple[float, int]] = []  # (centre x, part) of what was placed

    def place(self, rng: np.random.Generator, part_index: int, parts: list[_Part]) -> bool:
        """Find a free enough spot for a part; False if there is none."""
        if len(self.placed) + parts[part_index].count > MAX_INSTANCES:
            return False
        part = parts[part_index]
        side = rng.uniform(*SIZE_BANDS[part.band]) * self.long
        flip = rng.random() < 0.5
        base = part.sprite.painted(part.color)
        if flip:
            base = base.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        patches = [_draw(base, side * rng.uniform(0.97, 1.0), rng.uniform(-10, 10)) for _ in range(part.count)]
        offsets, extent = _arrange(rng, patches)
        free_w, free_h = self.width - extent[0], self.height - extent[1]
        if free_w < 0 or free_h < 0:
            return False
        tries = self.TRIES + (self.ROOMY_TRIES if rng.random() < 0.75 else 0)
        for left in range(tries, 0, -1):
            share = VISIBLE_SHARE if left <= self.TRIES else ROOMY_VISIBLE_SHARE
            corner = (int(rng.integers(free_w + 1)), int(rng.integers(free_h + 1)))
            boxes = [
                (corner[0] + dx, corner[1] + dy, corner[0] + dx + p.shape[1], corner[1] + dy + p.shape[0])
                for (dx, dy), p in zip(offsets, patches, strict=True)
            ]
            if self._fits(boxes, patches, part_index, parts, corner[0] + extent[0] / 2, share):
                self._put(boxes, patches, part_index)
                self.centers.append((corner[0] + extent[0] / 2, part_index))
                return True
        return False

    def _fits(
        self,
        boxes: list[Box],
        patches: list[np.ndarray],
        part_index: int,
        parts: list[_Part],
        center_x: float,
        share: float,
    ) -> bool:
        if any(abs(center_x - x) < ORDER_GAP * self.width for x, _ in self.centers):
            return False
        part = parts[part_index]
        for old in self.placed:
            other = parts[old.part]
            same_name = other.sprite.name == part.sprite.name
            for box in boxes:
                if same_name and other.color == part.color and _gap(box, old.box) < SAME_GAP * self.long:
                    return False
                if same_name and _gap(box, old.box) < 2:
                    return False
        covered = np.zeros(len(self.placed) + 1, dtype=np.int64)
        for box, patch in zip(boxes, patches, strict=True):
            under = self.owner[box[1] : box[3], box[0] : box[2]][patch[..., 3] >= 128]
            covered += np.bincount(under, minlength=len(covered))[: len(covered)]
        hidden = covered[1:]
        return all(v - h >= share * p.total for v, h, p in zip(self.visible, hidden, self.placed, strict=True))

    def _put(self, boxes: list[Box], patches: list[np.ndarray], part_index: int) -> None:
        for box, patch in zip(boxes, patches, strict=True):
            solid = patch[..., 3] >= 128
            window = self.owner[box[1] : box[3], box[0] : box[2]]
            under = np.bincount(window[solid], minlength=len(self.placed) + 1)[1:]
            self.visible = [v - int(h) for v, h in zip(self.visible, under, strict=True)]
            window[solid] = len(self.placed) + 1
            total = int(np.count_nonzero(solid))
            self.placed.append(_Placed(part_index, box, total, patch))
            self.visible.append(total)

    def finish(self, background: np.ndarray, parts: list[_Part]) -> Composition:
        pixels = np.array(background, dtype=np.uint8)
        for item in self.placed:
            x0, y0, x1, y1 = item.box
            under = pixels[y0:y1, x0:x1]
            keep = 255 - item.patch[..., 3:].astype(np.uint16)
            under[:] = np.minimum(item.patch[..., :3] + (under * keep + 127) // 255, 255)
        objects = [self._object(k, item, parts[item.part]) for k, item in enumerate(self.placed)]
        entities = []
        for part_index in {p.part: None for p in self.placed}:
            members = tuple(o for o, p in zip(objects, self.placed, strict=True) if p.part == part_index)
            entities.append(_entity(members, parts[part_index].sprite.plural))
        entities.sort(key=lambda e: e.center_xy[0])
        return Composition(Image.fromarray(pixels), tuple(objects), tuple(entities))

    def _object(self, k: int, item: _Placed, part: _Part) -> SceneObject:
        x0, y0, x1, y1 = item.box
        mine = self.owner[y0:y1, x0:x1] == k + 1
        ys, xs = np.flatnonzero(mine.any(1)), np.flatnonzero(mine.any(0))
        box = (x0 + int(xs[0]), y0 + int(ys[0]), x0 + int(xs[-1]) + 1, y0 + int(ys[-1]) + 1)
        longest = max(box[2] - box[0], box[3] - box[1]) / self.long
        size = "small" if longest <= SMALL_BELOW else "big" if longest >= BIG_ABOVE else ""
        share = np.count_nonzero(mine) / item.total
        return SceneObject(k, part.sprite.name, part.color, size, box, share, self.owner)


def _entity(members: tuple[SceneObject, ...], plural: str) -> Entity:
    boxes = np.array([m.box_xyxy for m in members])
    x0, y0 = boxes[:, :2].min(0).tolist()
    x1, y1 = boxes[:, 2:].max(0).tolist()
    size = members[0].size if len(members) == 1 else ""  # a group is named by its count, never by size
    return Entity(members, members[0].name, plural, members[0].color, size, (x0, y0, x1, y1))


def _draw(sprite: Image.Image, side: float, angle: float) -> np.ndarray:
    """A turned cut-out whose visible longer side is `side` px: (h, w, 4) premultiplied uint8."""
    turned = sprite.rotate(angle, Image.Resampling.BILINEAR, expand=True)
    box = turned.getchannel(3).point(_HALF_OPAQUE).getbbox()
    assert box is not None
    scale = side / max(box[2] - box[0], box[3] - box[1])
    size = (max(1, round((box[2] - box[0]) * scale)), max(1, round((box[3] - box[1]) * scale)))
    resample = Image.Resampling.BICUBIC if scale < 1 else Image.Resampling.BILINEAR
    return np.asarray(turned.resize(size, resample, box=box))


_HALF_OPAQUE = [0] * 64 + [255] * 192


def _arrange(rng: np.random.Generator, patches: list[np.ndarray]) -> tuple[list[tuple[int, int]], tuple[int, int]]:
    """Offsets of the members of a group (a row, sometimes bent into a triangle) and the extent (w, h) of it all."""
    if len(patches) == 1:
        return [(0, 0)], (patches[0].shape[1], patches[0].shape[0])
    tallest = max(p.shape[0] for p in patches)
    offsets, x = [], 0
    bent = len(patches) == 3 and rng.random() < 0.4
    for i, patch in enumerate(patches):
        y = rng.integers(0, max(1, int(tallest * 0.2)))
        if bent and i == 1:
            y += int(tallest * 0.7)
        offsets.append((x, int(y)))
        advance = 0.62 if bent else rng.uniform(1.0, 1.1)
        x += int(patch.shape[1] * advance) + 2
    width = max(dx + p.shape[1] for (dx, _), p in zip(offsets, patches, strict=True))
    height = max(dy + p.shape[0] for (_, dy), p in zip(offsets, patches, strict=True))
    return offsets, (width, height)


def _gap(a: Box, b: Box) -> float:
    dx = max(a[0] - b[2], b[0] - a[2], 0)
    dy = max(a[1] - b[3], b[1] - a[3], 0)
    return float(np.hypot(dx, dy))
