"""What all drawings share: a sheet with the image on top and a panel of text below, and a layer of marks between.

Pillow only. Everything is laid out in pixels of the output; lines are drawn at three times its size and averaged down.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any

from PIL import Image, ImageDraw, ImageEnhance, ImageFont

Colour = tuple[int, int, int]
XY = tuple[float, float]
Rect = tuple[float, float, float, float]

PANEL: Colour = (18, 20, 26)
PAPER: Colour = (214, 217, 224)
INK: Colour = (12, 13, 17)
WHITE: Colour = (255, 255, 255)
HALO = (8, 9, 12, 150)
_SAMPLES = 3  # drawn pixels per output pixel, each way


@dataclass(frozen=True)
class Sheet:
    """The output's measures: width of the sheet, size and left edge of the image on it, scale from image pixels."""

    width: int
    left: int
    shown_size: tuple[int, int]
    scale: float

    @classmethod
    def fit(cls, image_size: tuple[int, int], min_side: int, max_side: int) -> Sheet:
        long = max(image_size)
        scale = min(max(long, min_side), max_side) / long
        size = (max(1, round(image_size[0] * scale)), max(1, round(image_size[1] * scale)))
        width = max(size[0], round(0.6 * min_side))  # a narrow image still gets a readable caption
        return cls(width, (width - size[0]) // 2, size, scale)

    @property
    def unit(self) -> float:
        """A thin line in output pixels."""
        return max(self.shown_size + (self.width,)) / 640

    @property
    def font_size(self) -> float:
        """Of the caption."""
        return max(17.0, min(self.width * 0.026, 40.0))

    def place(self, point: XY) -> XY:
        """Image pixels -> sheet pixels, a little inside its borders."""
        x, y = point[0] * self.scale, point[1] * self.scale
        width, height = self.shown_size
        return min(max(x, 0.0), width - 1.0), min(max(y, 0.0), height - 1.0)

    def rect(self, box: Rect) -> Rect:
        """Image pixels -> sheet pixels, so far inside the borders that a frame stays visible."""
        inset = 1.2 * self.unit
        (x0, y0), (x1, y1) = self.place(box[:2]), self.place(box[2:])
        width, height = self.shown_size
        return max(x0, inset), max(y0, inset), min(x1, width - inset), min(y1, height - inset)

    def shown(self, image: Image.Image) -> Image.Image:
        """The image at its size on the sheet, a little quieter, so that thin bright lines stand out."""
        shown = image.convert("RGB").resize(self.shown_size, Image.Resampling.LANCZOS, reducing_gap=3.0)
        return ImageEnhance.Color(ImageEnhance.Brightness(shown).enhance(0.9)).enhance(0.92)

    def joined(self, shown: Image.Image, overlay: Overlay, panel: Image.Image) -> Image.Image:
        """The finished sheet, RGB."""
        marked = Image.alpha_composite(shown.convert("RGBA"), overlay.result()).convert("RGB")
        result = Image.new("RGB", (self.width, self.shown_size[1] + panel.height), PANEL)
        result.paste(marked, (self.left, 0))
        result.paste(panel, (0, self.shown_size[1]))
        return result


@lru_cache(maxsize=32)
def font_of_size(size: float) -> Any:
    """The one typeface of all drawings."""
    return ImageFont.load_default(size)


def text_width(text: str, size: float) -> float:
    """In output pixels."""
    return font_of_size(size).getlength(text)


# --- over the image -----------------------------------------------------------------------------------------


class Overlay:
    """A transparent layer over the image; every method takes sheet pixels."""

    def __init__(self, sheet: Sheet):
        self.sheet = sheet
        self.unit = sheet.unit
        self.size = sheet.shown_size
        big = (self.size[0] * _SAMPLES, self.size[1] * _SAMPLES)
        self.layer = Image.new("RGBA", big, (0, 0, 0, 0))
        self.pen = ImageDraw.Draw(self.layer)

    def result(self) -> Image.Image:
        """The layer at the size of the image."""
        return self.layer.resize(self.size, Image.Resampling.BOX)

    def prompt(self, box: Rect | None, points: Sequence[tuple[float, float, int]] | None) -> None:
        """A dashed frame, or crosses (inside) and bars (outside)."""
        if box is not None:
            for start, end in pairwise(frame(self.sheet.rect(box))):
                self.dashes(start, end)
        for x, y, label in points or ():
            x, y = self.sheet.place((x, y))
            arm = 4 * self.unit
            self.disc((x, y), 2 * arm, HALO)
            self.disc((x, y), 1.7 * arm, (*WHITE, 255))
            self.line((x - arm, y), (x + arm, y), 1.6 * self.unit, (*INK, 255))
            if label:
                self.line((x, y - arm), (x, y + arm), 1.6 * self.unit, (*INK, 255))

    def tag(self, rect: Rect, text: str, size: float, colour: Colour) -> None:
        """Dark letters on a rounded patch."""
        self.rounded(rect, 0.42 * size, HALO, grow=0.9 * self.unit)
        self.rounded(rect, 0.42 * size, (*colour, 255))
        self.text(((rect[0] + rect[2]) / 2, (rect[1] + rect[3]) / 2), text, size, INK)

    def fits(self, rect: Rect) -> bool:
        """Whether the rectangle lies in the image with a little margin."""
        margin = 2 * self.unit
        x0, y0, x1, y1 = rect
        return x0 >= margin and y0 >= margin and x1 <= self.size[0] - margin and y1 <= self.size[1] - margin

    def dashes(self, start: XY, end: XY) -> None:
        length = math.dist(start, end)
        count = max(1, round(length / (9 * self.unit)))
        for colour, width in ((HALO, 3.4 * self.unit), ((*WHITE, 255), 1.7 * self.unit)):
            for i in range(count):
                a, b = (i + 0.2) / count, (i + 0.8) / count
                self.line(between(start, end, a), between(start, end, b), width, colour)

    # The primitives scale to the layer; colours replace what is below them, so overlaps stay even.

    def disc(self, xy: XY, radius: float, colour: tuple[int, ...]) -> None:
        x, y, radius = xy[0] * _SAMPLES, xy[1] * _SAMPLES, radius * _SAMPLES
        self.pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)

    def line(self, start: XY, end: XY, width: float, colour: tuple[int, ...]) -> None:
        points = [start[0] * _SAMPLES, start[1] * _SAMPLES, end[0] * _SAMPLES, end[1] * _SAMPLES]
        self.pen.line(points, fill=colour, width=max(1, round(width * _SAMPLES)))
        for xy in (start, end):
            self.disc(xy, width / 2, colour)

    def rounded(self, rect: Rect, radius: float, fill: tuple[int, ...], grow: float = 0.0) -> None:
        wide = (rect[0] - grow, rect[1] - grow, rect[2] + grow, rect[3] + grow)
        self.pen.rounded_rectangle([value * _SAMPLES for value in wide], (radius + grow) * _SAMPLES, fill=fill)

    def text(self, xy: XY, text: str, size: float, colour: Colour) -> None:
        font = font_of_size(size * _SAMPLES)
        self.pen.text((xy[0] * _SAMPLES, xy[1] * _SAMPLES), text, font=font, fill=(*colour, 255), anchor="mm")


def between(start: XY, end: XY, t: float) -> XY:
    return start[0] + (end[0] - start[0]) * t, start[1] + (end[1] - start[1]) * t


def frame(rect: Rect) -> list[XY]:
    """The way round the rectangle."""
    x0, y0, x1, y1 = rect
    return [(x0, y0), (x1, y0), (x1, y1), (x0, y1), (x0, y0)]


def sides(rect: Rect) -> tuple[float, float]:
    return rect[2] - rect[0], rect[3] - rect[1]


def intersect(a: Rect, b: Rect) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def inside(rect: Rect, xy: XY) -> bool:
    return rect[0] < xy[0] < rect[2] and rect[1] < xy[1] < rect[3]


def nearest(rect: Rect, xy: XY) -> XY:
    return min(max(xy[0], rect[0]), rect[2]), min(max(xy[1], rect[1]), rect[3])


def overlap(a: Rect, b: Rect) -> float:
    """Intersection over union."""
    inner = max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    total = math.prod(sides(a)) + math.prod(sides(b)) - inner
    return inner / total if total > 0 else 0.0


# --- below the image ----------------------------------------------------------------------------------------

GLUED, BLANK = 0.08, 0.30  # gaps in font sizes


@dataclass(frozen=True)
class Piece:
    """A stretch of text in one colour; glued pieces stay on the line of the one before.

    chip: dark letters on a patch of the colour. gap: before it, in font sizes.
    """

    text: str
    colour: Colour
    chip: bool = False
    glued: bool = False
    gap: float = BLANK


def text_panel(pieces: Sequence[Piece], sheet: Sheet, key: Callable[[float], Colour] | None = None) -> Image.Image:
    """The pieces in lines; with `key`, colours of 0..1, a strip of them from left to right above."""
    size = sheet.font_size
    pad_x, pad_y, leading = 1.1 * size, 0.95 * size, 1.75 * size
    chip_pad = 0.32 * size
    strip = max(3, round(0.22 * size)) if key else 0
    lines: list[list[tuple[float, Piece]]] = [[]]
    x = pad_x
    for run in _runs(pieces):
        widths = [text_width(piece.text, size) + (2 * chip_pad if piece.chip else 0) for piece in run]
        gaps = [piece.gap * size for piece in run]
        if lines[-1] and x + sum(widths) + sum(gaps) > sheet.width - pad_x:
            lines.append([])
            x = pad_x
        for piece, width, gap in zip(run, widths, gaps, strict=True):
            x += gap if lines[-1] else 0
            lines[-1].append((x, piece))
            x += width
    height = round(strip + 2 * pad_y + leading * len(lines))
    big = Image.new("RGB", (sheet.width * _SAMPLES, height * _SAMPLES), PANEL)
    draw = ImageDraw.Draw(big)
    for column in range(big.width if key else 0):
        assert key is not None
        draw.line((column, 0, column, strip * _SAMPLES - 1), fill=key(round(column / big.width, 2)))
    font = font_of_size(size * _SAMPLES)
    for number, line in enumerate(lines):
        middle = (strip + pad_y + leading * (number + 0.5)) * _SAMPLES
        for x, piece in line:
            left = x * _SAMPLES
            if piece.chip:
                right = left + (text_width(piece.text, size) + 2 * chip_pad) * _SAMPLES
                half = 0.66 * size * _SAMPLES
                draw.rounded_rectangle(
                    (left, middle - half, right, middle + half), radius=0.36 * size * _SAMPLES, fill=piece.colour
                )
                draw.text(((left + right) / 2, middle), piece.text, font=font, fill=INK, anchor="mm")
            else:
                draw.text((left, middle), piece.text, font=font, fill=piece.colour, anchor="lm")
    return big.resize((sheet.width, height), Image.Resampling.BOX)


def _runs(pieces: Sequence[Piece]) -> list[list[Piece]]:
    """Pieces that stay on one line together."""
    runs: list[list[Piece]] = []
    for piece in pieces:
        if piece.glued and runs:
            runs[-1].append(piece)
        else:
            runs.append([piece])
    return runs


__all__ = [
    "BLANK",
    "GLUED",
    "HALO",
    "INK",
    "PANEL",
    "PAPER",
    "WHITE",
    "XY",
    "Colour",
    "Overlay",
    "Piece",
    "Rect",
    "Sheet",
    "between",
    "font_of_size",
    "frame",
    "inside",
    "intersect",
    "nearest",
    "overlap",
    "sides",
    "text_panel",
    "text_width",
]
