"""A drawing of objects: masks, boxes and points in distinct colours, numbered, with what they are called below."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import numpy as np
from PIL import Image, ImageFilter

from .drawing_canvas import (
    BLANK,
    HALO,
    PAPER,
    Colour,
    Overlay,
    Piece,
    Rect,
    Sheet,
    frame,
    intersect,
    nearest,
    sides,
    text_panel,
    text_width,
)

# Okabe and Ito's colours, which the colour-blind can tell apart, without black and with a lighter blue: each is bright
# enough for the dark panel and for dark letters on it. The numbers tell apart what comes after the seventh.
OBJECT_COLOURS: tuple[Colour, ...] = (
    (230, 159, 0),  # orange
    (86, 180, 233),  # sky blue
    (213, 94, 0),  # vermilion
    (0, 158, 115),  # bluish green
    (240, 228, 66),  # yellow
    (204, 121, 167),  # reddish purple
    (100, 143, 255),  # blue
)
_DIM: Colour = (139, 143, 153)
_FILL = 0.42  # of a mask
_SHADE = 0.72  # of the image outside all masks
_LONGEST_TAG = 30  # letters
_GAP = 2.2  # between tags, in thin lines


class PlacedObject(Protocol):
    """What is drawn of an object; see `GroundedCaption`."""

    @property
    def text(self) -> str: ...
    @property
    def location(self) -> Rect | None: ...
    @property
    def mask(self) -> np.ndarray | None: ...
    @property
    def prompt_points(self) -> Sequence[tuple[float, float, int]] | None: ...
    @property
    def box_score(self) -> float | None: ...
    @property
    def mask_score(self) -> float | None: ...


def draw_objects(
    image: Image.Image,
    objects: Sequence[PlacedObject],
    *,
    boxes: bool = True,
    masks: bool = True,
    labels: bool = True,
    sentence: tuple[str, Sequence[tuple[int, int]]] | None = None,
    min_side: int = 960,
    max_side: int = 1600,
) -> Image.Image:
    """-> a new RGB image: the given one, its longer side brought between min_side and max_side, and a panel of names.

    objects: locations in pixels of `image`, masks (H,W) of its size; those without a location are in the panel only.
    boxes, masks, labels: what is drawn over the image. sentence: a text and the (start, end) of each object's words
        in it, in their order; then the panel is the text with these words in the objects' colours.
    """
    sheet = Sheet.fit(image.size, min_side, max_side)
    shown = sheet.shown(image)
    marks = [_Mark.of(i, thing, sheet, len(objects)) for i, thing in enumerate(objects)]
    # What is large lies below what is small.
    stacked = sorted(marks, key=lambda mark: -mark.area)
    if masks:
        shown = _with_masks(shown, [(mark.thing.mask, mark.colour) for mark in stacked], sheet)
    overlay = _ObjectOverlay(sheet)
    for mark in stacked:
        overlay.prompt(None, mark.thing.prompt_points)
        if boxes and mark.rect is not None:
            overlay.box(mark.rect, mark.colour)
    if labels:
        overlay.labels(marks)
    pieces = _pieces(marks) if sentence is None else _sentence_pieces(marks, *sentence)
    return sheet.joined(shown, overlay, text_panel(list(pieces), sheet))


def object_colour(index: int) -> Colour:
    """The colour of the object at this place in the list."""
    return OBJECT_COLOURS[index % len(OBJECT_COLOURS)]


@dataclass(frozen=True)
class _Mark:
    """An object on the sheet; rect of its box and anchor of its tag in sheet pixels, the latter around the mask
    where there is no box. number is empty for a single object, which needs none."""

    thing: PlacedObject
    number: str
    colour: Colour
    rect: Rect | None
    anchor: Rect | None

    @classmethod
    def of(cls, index: int, thing: PlacedObject, sheet: Sheet, count: int) -> _Mark:
        rect = None if thing.location is None else sheet.rect(thing.location)
        anchor = rect
        if rect is None and thing.mask is not None and thing.mask.any():
            rows, columns = (np.flatnonzero(thing.mask.any(axis=axis)) for axis in (1, 0))
            anchor = sheet.rect((float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)))
        return cls(thing, str(index + 1) if count > 1 else "", object_colour(index), rect, anchor)

    @property
    def area(self) -> float:
        return 0.0 if self.anchor is None else sides(self.anchor)[0] * sides(self.anchor)[1]

    def tags(self) -> list[str]:
        """What the tag may say, the longest first."""
        text = " ".join(self.thing.text.split())
        if len(text) > _LONGEST_TAG:
            text = text[: _LONGEST_TAG - 1].rstrip() + "…"
        whole = f"{self.number} {text}".strip()
        return [tag for tag in dict.fromkeys((whole, self.number)) if tag]


# --- masks ----------------------------------------------------------------------------------------------------


def _with_masks(shown: Image.Image, masks: Sequence[tuple[np.ndarray | None, Colour]], sheet: Sheet) -> Image.Image:
    """Filled in their colours with a firm outline; what lies outside all of them gets darker."""
    scaled = [(_on_sheet(mask, sheet), colour) for mask, colour in masks if mask is not None]
    visible = [(mask, colour) for mask, colour in scaled if mask.any()]  # a speck may be lost on the way
    if not visible:
        return shown
    pixels = np.asarray(shown, dtype=np.float32)
    covered = np.zeros(pixels.shape[:2], dtype=bool)
    for mask, _ in visible:
        covered |= mask
    pixels = pixels * np.where(covered, 1.0, _SHADE)[..., None].astype(np.float32)
    line = max(1, round(1.6 * sheet.unit))
    for mask, colour in visible:
        part = _around(mask, margin=2 * line + 4)
        pixels[part] = _tinted(pixels[part], mask[part], colour, line)
    return Image.fromarray(pixels.round().clip(0, 255).astype(np.uint8))


def _tinted(pixels: np.ndarray, mask: np.ndarray, colour: Colour, line: int) -> np.ndarray:
    """pixels (h,w,3), mask (h,w): its area in the colour, an outline of `line` pixels, and a shadow around that."""
    rim = _grown(mask, line // 2) & ~_shrunk(mask, line - line // 2)
    halo = _grown(mask, line // 2 + max(1, line // 2)) & ~mask
    for where, tint, strength in ((mask, colour, _FILL), (halo, HALO[:3], HALO[3] / 255), (rim, colour, 1.0)):
        cover = _softened(where)[..., None] * np.float32(strength)
        pixels = pixels * (1 - cover) + np.array(tint, dtype=np.float32) * cover
    return pixels


def _around(mask: np.ndarray, margin: int) -> tuple[slice, slice]:
    """The part of the image that a mask, which is not empty, and its outline can touch."""
    spans = []
    for axis in (1, 0):
        filled = np.flatnonzero(mask.any(axis=axis))
        spans.append(slice(max(int(filled[0]) - margin, 0), int(filled[-1]) + margin + 1))
    return spans[0], spans[1]


def _on_sheet(mask: np.ndarray, sheet: Sheet) -> np.ndarray:
    """(H,W) bool at the size of the image on the sheet."""
    grey = Image.fromarray(np.asarray(mask, dtype=np.uint8) * 255)
    return np.asarray(grey.resize(sheet.shown_size, Image.Resampling.BILINEAR)) >= 128


def _grown(mask: np.ndarray, steps: int) -> np.ndarray:
    """The mask with a border of `steps` pixels; square and diamond neighbours by turns, so that corners get round."""
    for step in range(steps):
        padded = np.pad(mask, 1)
        mask = padded[1:-1, 1:-1] | padded[:-2, 1:-1] | padded[2:, 1:-1] | padded[1:-1, :-2] | padded[1:-1, 2:]
        if step % 2:
            mask = mask | padded[:-2, :-2] | padded[:-2, 2:] | padded[2:, :-2] | padded[2:, 2:]
    return mask


def _shrunk(mask: np.ndarray, steps: int) -> np.ndarray:
    return ~_grown(~mask, steps)


def _softened(mask: np.ndarray) -> np.ndarray:
    """(H,W) float32 0..1 with edges that do not look like stairs."""
    grey = Image.fromarray(mask.astype(np.uint8) * 255).filter(ImageFilter.GaussianBlur(0.8))
    return np.asarray(grey, dtype=np.float32) / 255


# --- boxes and tags -------------------------------------------------------------------------------------------


class _ObjectOverlay(Overlay):
    """The marks of objects; every method takes sheet pixels."""

    def box(self, rect: Rect, colour: Colour) -> None:
        """A firm frame, dark on both sides so that it shows on any background."""
        for width, paint in ((4.2 * self.unit, HALO), (2.2 * self.unit, (*colour, 255))):
            for start, end in pairwise(frame(rect)):
                self.line(start, end, width, paint)

    def labels(self, marks: Sequence[_Mark]) -> None:
        """A tag beside every object: the number and the text; in a crowd the number alone, farther off and joined."""
        size = self.sheet.font_size * 0.78
        tags: list[tuple[Rect, str, _Mark]] = []
        for mark in sorted(marks, key=lambda mark: mark.area):  # small ones have least choice
            if mark.anchor is not None and mark.tags():
                rect, text = self._room(mark.anchor, mark.tags(), size, [taken for taken, _, _ in tags])
                tags.append((rect, text, mark))
        for rect, _, mark in tags:
            assert mark.anchor is not None
            if not intersect(self._wider(rect, 2), mark.anchor):
                start = nearest(mark.anchor, ((rect[0] + rect[2]) / 2, (rect[1] + rect[3]) / 2))
                end = nearest(rect, start)
                self.line(start, end, 2.6 * self.unit, HALO)
                self.line(start, end, 1.1 * self.unit, (*mark.colour, 255))
        for rect, text, mark in tags:
            self.tag(rect, text, size, mark.colour)

    def _room(self, box: Rect, texts: Sequence[str], size: float, taken: Sequence[Rect]) -> tuple[Rect, str]:
        """The first text and place that cover no other tag; the last text within the box if there is no room at all."""
        height = 1.5 * size
        widths = [text_width(text, size) + 0.9 * size for text in texts]
        places = [
            (rect, text)
            for text, width in zip(texts, widths, strict=True)
            for rect in _corners(box, width, height, _GAP * self.unit)
        ]
        places += [(rect, texts[-1]) for rect in _rings(box, widths[-1], height)]
        for rect, text in places:
            if self.fits(rect) and not any(intersect(self._wider(rect), other) for other in taken):
                return rect, text
        x = min(max(box[0], 0.0), max(self.size[0] - widths[-1], 0.0))
        y = min(max(box[1], 0.0), max(self.size[1] - height, 0.0))
        return (x, y, x + widths[-1], y + height), texts[-1]

    def _wider(self, rect: Rect, times: float = 1) -> Rect:
        """With the gap between tags on all sides."""
        gap = times * _GAP * self.unit
        return rect[0] - gap, rect[1] - gap, rect[2] + gap, rect[3] + gap


def _corners(box: Rect, width: float, height: float, gap: float) -> Iterator[Rect]:
    """Places for a tag: above the box, below it, within it, each at the left, then at the right; then on its sides."""
    x0, y0, x1, y1 = box
    for y in (y0 - gap - height, y1 + gap, y0 + gap, y1 - gap - height):
        within = y0 <= y and y + height <= y1
        for x in (x0 + gap, x1 - gap - width) if within else (x0, x1 - width):
            yield x, y, x + width, y + height
    for x in (x1 + gap, x0 - gap - width):
        for y in (y0, y1 - height):
            yield x, y, x + width, y + height


def _rings(box: Rect, width: float, height: float) -> Iterator[Rect]:
    """Places farther and farther from the middle of the box, upwards first."""
    x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    for ring in range(1, 9):
        for turn in range(16):
            angle = math.tau * turn / 16 - math.pi / 2
            left = x + math.cos(angle) * ring * 0.8 * (width + height) - width / 2
            top = y + math.sin(angle) * ring * 1.2 * height - height / 2
            yield left, top, left + width, top + height


# --- below the image ----------------------------------------------------------------------------------------


def _sentence_pieces(marks: Sequence[_Mark], text: str, spans: Sequence[tuple[int, int]]) -> Iterator[Piece]:
    """The text; the words of each object in its colour, behind its number."""
    done = 0
    for mark, (start, end) in zip(marks, spans, strict=True):
        start, end = (start, end) if start >= done else (done, done)
        yield from _plain_pieces(text, done, start)
        if mark.number:
            yield Piece(mark.number, mark.colour, chip=True, gap=2 * BLANK)
        for i, word in enumerate(text[start:end].split()):
            yield Piece(word, mark.colour, glued=bool(mark.number) and not i)
        done = end
    yield from _plain_pieces(text, done, len(text))


def _plain_pieces(text: str, start: int, end: int) -> Iterator[Piece]:
    """Words that no object has; what follows a word without a blank, as a full stop does, is not torn off."""
    torn = 0 < start < end and not text[start].isspace()
    for i, word in enumerate(text[start:end].split()):
        glued = torn and not i
        yield Piece(word, PAPER, glued=glued, gap=0.0 if glued else BLANK)


def _pieces(marks: Sequence[_Mark]) -> Iterator[Piece]:
    """Number, text and score of each object, one after the other."""
    if not marks:
        yield Piece("nothing found", _DIM)
    for mark in marks:
        words = mark.thing.text.split()
        if mark.number:
            yield Piece(mark.number, mark.colour, chip=True, gap=1.3)
        # The number does not stand alone at the end of a line, nor the score at the beginning of one.
        for i, word in enumerate(words):
            yield Piece(word, PAPER if mark.number else mark.colour, glued=bool(mark.number) and not i)
        if mark.thing.location is None and mark.thing.mask is None and not mark.thing.prompt_points:
            yield Piece("(no location)", _DIM)
            continue
        score = mark.thing.mask_score if mark.thing.box_score is None else mark.thing.box_score
        if score is not None:
            yield Piece(f"{score:.2f}", _DIM, glued=True, gap=2 * BLANK)


__all__ = ["OBJECT_COLOURS", "PlacedObject", "draw_objects", "object_colour"]
