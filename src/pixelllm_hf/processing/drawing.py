"""A picture of a grounded caption: words in the colours of the trace, joined to their places, the caption below.

Pillow only. Everything is laid out in pixels of the output; lines are drawn at twice its size and averaged down.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise
from typing import Any, Protocol

from PIL import Image, ImageDraw, ImageEnhance, ImageFont

Colour = tuple[int, int, int]
XY = tuple[float, float]
Rect = tuple[float, float, float, float]

PANEL: Colour = (18, 20, 26)
PAPER: Colour = (214, 217, 224)
INK: Colour = (12, 13, 17)
HALO = (8, 9, 12, 150)
_SAMPLES = 3  # drawn pixels per output pixel, each way

# Words that say nothing about what is where; they keep their dot on the trace but get no label and no box.
_FUNCTION_WORDS = frozenset(
    re.findall(
        r"\S+",
        """
        a an the this that these those there here it its it's he she they them we i you his her their our your my who
        which what and or but so as at by for from in inside into of off on onto over out to toward towards under up
        down with without within near next beside behind between above below across along around through against
        before after about is are was were be been being am has have had do does did can could may might will would
        shall should not no very also some any other another each both few many much more most while where when than
        then too just only such see seen image picture photo shows shown showing looks like left right front back
        side top bottom middle
        """,
    )
)


class PlacedWord(Protocol):
    """What is drawn of a word; see `GroundedWord`."""

    @property
    def text(self) -> str: ...
    @property
    def start(self) -> int: ...
    @property
    def end(self) -> int: ...
    @property
    def point(self) -> XY | None: ...
    @property
    def box(self) -> Rect | None: ...


def draw_caption(
    image: Image.Image,
    text: str,
    words: Sequence[PlacedWord],
    *,
    prompt_box: Rect | None = None,
    prompt_points: Sequence[tuple[float, float, int]] | None = None,
    trace: bool = True,
    boxes: bool = True,
    labels: bool = True,
    min_side: int = 960,
    max_side: int = 1600,
) -> Image.Image:
    """-> a new RGB image: the picture, its longer side brought between min_side and max_side, and a caption panel.

    words: in reading order, places in pixels of `image`; words without a place appear in the caption only.
    prompt_box, prompt_points: what was asked about, drawn in white.
    trace, boxes, labels: what is drawn over the picture.
    """
    sheet = _Sheet.fit(image.size, min_side, max_side)
    picture = image.convert("RGB").resize(sheet.picture_size, Image.Resampling.LANCZOS, reducing_gap=3.0)
    # A little quieter than the original, so that thin bright lines stand out.
    picture = ImageEnhance.Color(ImageEnhance.Brightness(picture).enhance(0.9)).enhance(0.92)
    marks = _marks(words, sheet)
    overlay = _Overlay(sheet)
    overlay.prompt(prompt_box, prompt_points)
    if boxes:
        overlay.boxes(marks)
    if trace:
        overlay.trace(marks)
    if labels:
        overlay.labels(marks)
    overlay.dots(marks)
    picture = Image.alpha_composite(picture.convert("RGBA"), overlay.result()).convert("RGB")

    panel = _caption_panel(text, words, sheet)
    result = Image.new("RGB", (sheet.width, sheet.picture_size[1] + panel.height), PANEL)
    result.paste(picture, (sheet.left, 0))
    result.paste(panel, (0, sheet.picture_size[1]))
    return result


# --- colours --------------------------------------------------------------------------------------------------


def trace_colours(count: int) -> list[Colour]:
    """Colours from first to last: violet, rose, orange, yellow.

    Lightness rises evenly, so the order survives colour blindness and grey print; all are bright enough for a dark
    panel and dark enough to be told from white.
    """
    return [trace_colour(i / (count - 1) if count > 1 else 0.0) for i in range(count)]


@lru_cache(maxsize=512)
def trace_colour(position: float) -> Colour:
    """The colour at 0 (first word) to 1 (last word)."""
    lightness = 0.66 + 0.25 * position
    hue = 292 + 175 * position**0.9  # degrees: violet over red to yellow
    chroma = 0.19 - 0.035 * position
    return _oklch_to_rgb(lightness, chroma, math.radians(hue))


def _oklch_to_rgb(lightness: float, chroma: float, hue: float) -> Colour:
    """Oklch (a perceptually even colour space) -> sRGB, out-of-gamut values clipped."""
    a, b = chroma * math.cos(hue), chroma * math.sin(hue)
    long = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3
    medium = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3
    short = (lightness - 0.0894841775 * a - 1.2914855480 * b) ** 3
    linear = (
        4.0767416621 * long - 3.3077115913 * medium + 0.2309699292 * short,
        -1.2684380046 * long + 2.6097574011 * medium - 0.3413193965 * short,
        -0.0041960863 * long - 0.7034186147 * medium + 1.7076147010 * short,
    )
    red, green, blue = (
        round(255 * (12.92 * c if c <= 0.0031308 else 1.055 * c ** (1 / 2.4) - 0.055))
        for c in (min(max(value, 0.0), 1.0) for value in linear)
    )
    return red, green, blue


# --- layout ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Sheet:
    """The output's measures: width of the sheet, size and left edge of the picture, scale from image pixels."""

    width: int
    left: int
    picture_size: tuple[int, int]
    scale: float

    @classmethod
    def fit(cls, image_size: tuple[int, int], min_side: int, max_side: int) -> _Sheet:
        long = max(image_size)
        scale = min(max(long, min_side), max_side) / long
        size = (max(1, round(image_size[0] * scale)), max(1, round(image_size[1] * scale)))
        width = max(size[0], round(0.6 * min_side))  # a narrow picture still gets a readable caption
        return cls(width, (width - size[0]) // 2, size, scale)

    @property
    def unit(self) -> float:
        """A thin line in output pixels."""
        return max(self.picture_size + (self.width,)) / 640

    @property
    def font_size(self) -> float:
        """Of the caption."""
        return max(17.0, min(self.width * 0.026, 40.0))

    def place(self, point: XY) -> XY:
        """Image pixels -> picture pixels, a little inside its borders."""
        x, y = point[0] * self.scale, point[1] * self.scale
        width, height = self.picture_size
        return min(max(x, 0.0), width - 1.0), min(max(y, 0.0), height - 1.0)

    def rect(self, box: Rect) -> Rect:
        """Image pixels -> picture pixels, so far inside the borders that a frame stays visible."""
        inset = 1.2 * self.unit
        (x0, y0), (x1, y1) = self.place(box[:2]), self.place(box[2:])
        width, height = self.picture_size
        return max(x0, inset), max(y0, inset), min(x1, width - inset), min(y1, height - inset)


@dataclass(frozen=True)
class _Mark:
    """A word with a place, in picture pixels."""

    text: str
    xy: XY
    rect: Rect | None
    colour: Colour
    says_something: bool


def _marks(words: Sequence[PlacedWord], sheet: _Sheet) -> list[_Mark]:
    marks = []
    for word, colour in zip(words, trace_colours(len(words)), strict=True):
        if word.point is not None:
            rect = None if word.box is None else sheet.rect(word.box)
            marks.append(_Mark(word.text, sheet.place(word.point), rect, colour, _says_something(word.text)))
    return marks


def _says_something(word: str) -> bool:
    return word.lower() not in _FUNCTION_WORDS and any(c.isalnum() for c in word)


def _joined(marks: Sequence[_Mark], near: float) -> list[_Mark]:
    """The marks that get a tag; neighbours in the text that share a place share a tag ("red ball")."""
    tags: list[_Mark] = []
    previous: _Mark | None = None
    for mark in marks:
        if mark.says_something:
            together = previous is not None and previous.says_something and math.dist(tags[-1].xy, mark.xy) < near
            if together and len(tags[-1].text) + len(mark.text) < 24:
                tags[-1] = replace(mark, text=f"{tags[-1].text} {mark.text}")
            else:
                tags.append(mark)
        previous = mark
    return tags


@lru_cache(maxsize=32)
def _font(size: float) -> Any:
    return ImageFont.load_default(size)


def _text_width(text: str, size: float) -> float:
    return _font(size).getlength(text)


# --- over the picture -----------------------------------------------------------------------------------------


class _Overlay:
    """A transparent layer over the picture; every method takes picture pixels."""

    def __init__(self, sheet: _Sheet):
        self.sheet = sheet
        self.unit = sheet.unit
        self.size = sheet.picture_size
        big = (self.size[0] * _SAMPLES, self.size[1] * _SAMPLES)
        self.layer = Image.new("RGBA", big, (0, 0, 0, 0))
        self.draw = ImageDraw.Draw(self.layer)

    def result(self) -> Image.Image:
        return self.layer.resize(self.size, Image.Resampling.BOX)

    def dots(self, marks: Iterable[_Mark]) -> None:
        """A ringed dot at each place; small ones for words without meaning of their own."""
        for mark in sorted(marks, key=lambda mark: mark.says_something):
            radius = self.unit * (3.6 if mark.says_something else 2.2)
            self._disc(mark.xy, radius + self.unit * 1.3, HALO)
            self._disc(mark.xy, radius + self.unit * 0.7, (255, 255, 255, 255))
            self._disc(mark.xy, radius, (*mark.colour, 255))

    def trace(self, marks: Sequence[_Mark]) -> None:
        """A smooth line through the places in reading order, its colour running from word to word."""
        path = _smooth_path([(mark.xy, mark.colour) for mark in marks], step=2 * self.unit)
        for start, end in pairwise(path):
            self._line(start[0], end[0], 3.8 * self.unit, HALO)
        for start, end in pairwise(path):
            self._line(start[0], end[0], 2.0 * self.unit, (*end[1], 255))

    def boxes(self, marks: Sequence[_Mark]) -> None:
        """Faint frames with firm corners around what words with a meaning name; near copies once."""
        chosen: list[tuple[_Mark, Rect]] = []
        for mark in marks:
            if mark.rect is None or not mark.says_something or min(_sides(mark.rect)) < 10 * self.unit:
                continue
            if all(_overlap(mark.rect, other) < 0.75 for _, other in chosen):
                chosen.append((mark, mark.rect))
        for mark, rect in chosen:
            for start, end in pairwise(_frame(rect)):
                self._line(start, end, 1.0 * self.unit, (*mark.colour, 120))
        for mark, (x0, y0, x1, y1) in chosen:
            arm = min(16 * self.unit, 0.35 * min(x1 - x0, y1 - y0))
            for width, colour in ((4.0 * self.unit, HALO), (2.2 * self.unit, (*mark.colour, 255))):
                for x, dx in ((x0, arm), (x1, -arm)):
                    for y, dy in ((y0, arm), (y1, -arm)):
                        self._line((x, y), (x + dx, y), width, colour)
                        self._line((x, y), (x, y + dy), width, colour)

    def labels(self, marks: Sequence[_Mark]) -> None:
        """The words with a meaning on tags beside their places, joined by a line; those that find no room are left."""
        size = self.sheet.font_size * 0.74
        placed: list[tuple[_Mark, Rect]] = []
        for mark in _joined(marks, near=9 * self.unit):
            width = _text_width(mark.text, size) + 0.9 * size
            rect = self._free_rect(mark, width, 1.45 * size, [rect for _, rect in placed], marks)
            if rect is not None:
                placed.append((mark, rect))
        for mark, rect in placed:
            end = _nearest(rect, mark.xy)
            self._line(mark.xy, end, 2.6 * self.unit, HALO)
            self._line(mark.xy, end, 1.1 * self.unit, (*mark.colour, 255))
        for mark, rect in placed:
            self._rounded(rect, 0.42 * size, HALO, grow=0.9 * self.unit)
            self._rounded(rect, 0.42 * size, (*mark.colour, 255))
            self._text(((rect[0] + rect[2]) / 2, (rect[1] + rect[3]) / 2), mark.text, size, INK)

    def _free_rect(
        self, mark: _Mark, width: float, height: float, taken: Sequence[Rect], marks: Sequence[_Mark]
    ) -> Rect | None:
        """The nearest place for a tag of this size that covers no tag and as few dots as can be."""
        best, best_cost = None, math.inf
        margin = 2 * self.unit
        for ring in range(6):
            distance = (7 + 9 * ring) * self.unit
            for turn in range(16):
                angle = math.tau * (turn / 16) - math.pi / 2
                x = mark.xy[0] + math.cos(angle) * (distance + width / 2)
                y = mark.xy[1] + math.sin(angle) * (distance + height / 2)
                rect = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
                if rect[0] < margin or rect[1] < margin or rect[2] > self.size[0] - margin:
                    continue
                if rect[3] > self.size[1] - margin:
                    continue
                wide = (rect[0] - margin, rect[1] - margin, rect[2] + margin, rect[3] + margin)
                if any(_intersect(wide, other) for other in taken):
                    continue
                covered = sum(_inside(wide, other.xy) for other in marks)
                cost = distance + 14 * self.unit * covered + 3 * self.unit * (math.sin(angle) > 0)
                if cost < best_cost:
                    best, best_cost = rect, cost
        return best

    def prompt(self, box: Rect | None, points: Sequence[tuple[float, float, int]] | None) -> None:
        """A dashed frame, or crosses (inside) and bars (outside)."""
        if box is not None:
            for start, end in pairwise(_frame(self.sheet.rect(box))):
                self._dashes(start, end)
        for x, y, label in points or ():
            x, y = self.sheet.place((x, y))
            arm = 4 * self.unit
            self._disc((x, y), 2 * arm, HALO)
            self._disc((x, y), 1.7 * arm, (255, 255, 255, 255))
            self._line((x - arm, y), (x + arm, y), 1.6 * self.unit, (*INK, 255))
            if label:
                self._line((x, y - arm), (x, y + arm), 1.6 * self.unit, (*INK, 255))

    def _dashes(self, start: XY, end: XY) -> None:
        length = math.dist(start, end)
        count = max(1, round(length / (9 * self.unit)))
        for colour, width in ((HALO, 3.4 * self.unit), ((255, 255, 255, 255), 1.7 * self.unit)):
            for i in range(count):
                a, b = (i + 0.2) / count, (i + 0.8) / count
                self._line(_between(start, end, a), _between(start, end, b), width, colour)

    # The primitives scale to the layer; colours replace what is below them, so overlaps stay even.

    def _disc(self, xy: XY, radius: float, colour: tuple[int, ...]) -> None:
        x, y, radius = xy[0] * _SAMPLES, xy[1] * _SAMPLES, radius * _SAMPLES
        self.draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)

    def _line(self, start: XY, end: XY, width: float, colour: tuple[int, ...]) -> None:
        points = [start[0] * _SAMPLES, start[1] * _SAMPLES, end[0] * _SAMPLES, end[1] * _SAMPLES]
        self.draw.line(points, fill=colour, width=max(1, round(width * _SAMPLES)))
        for xy in (start, end):
            self._disc(xy, width / 2, colour)

    def _rounded(self, rect: Rect, radius: float, fill: tuple[int, ...], grow: float = 0.0) -> None:
        wide = (rect[0] - grow, rect[1] - grow, rect[2] + grow, rect[3] + grow)
        self.draw.rounded_rectangle([value * _SAMPLES for value in wide], (radius + grow) * _SAMPLES, fill=fill)

    def _text(self, xy: XY, text: str, size: float, colour: Colour) -> None:
        font = _font(size * _SAMPLES)
        self.draw.text((xy[0] * _SAMPLES, xy[1] * _SAMPLES), text, font=font, fill=(*colour, 255), anchor="mm")


def _smooth_path(knots: Sequence[tuple[XY, Colour]], step: float) -> list[tuple[XY, Colour]]:
    """A curve through the knots with a point about every `step` pixels, colours blended on the way."""
    kept: list[tuple[XY, Colour]] = []
    for knot in knots:
        if not kept or math.dist(kept[-1][0], knot[0]) > step:
            kept.append(knot)
    places = [xy for xy, _ in kept]
    slopes = [
        _slope(places[max(i - 1, 0)], place, places[min(i + 1, len(places) - 1)]) for i, place in enumerate(places)
    ]
    path = kept[:1]
    for i in range(len(kept) - 1):
        (start, first), (end, last) = kept[i], kept[i + 1]
        steps = max(2, math.ceil(math.dist(start, end) / step))
        for k in range(1, steps + 1):
            t = k / steps
            xy = (_hermite(start[0], end[0], slopes[i][0], slopes[i + 1][0], t),
                  _hermite(start[1], end[1], slopes[i][1], slopes[i + 1][1], t))  # fmt: skip
            red, green, blue = (round(a + (b - a) * t) for a, b in zip(first, last, strict=True))
            path.append((xy, (red, green, blue)))
    return path


def _slope(before: XY, at: XY, after: XY) -> XY:
    """The direction of a curve at a knot: along its neighbours; none where it turns back, so that it never loops."""
    come, go = (at[0] - before[0], at[1] - before[1]), (after[0] - at[0], after[1] - at[1])
    lengths = math.hypot(*come), math.hypot(*go)
    chord = math.dist(before, after)
    if not all(lengths) or not chord:
        return 0.0, 0.0
    straight = (1 + (come[0] * go[0] + come[1] * go[1]) / math.prod(lengths)) / 2
    pull = straight * min(lengths) / chord
    return pull * (after[0] - before[0]), pull * (after[1] - before[1])


def _hermite(start: float, end: float, slope: float, end_slope: float, t: float) -> float:
    return (
        (2 * t**3 - 3 * t**2 + 1) * start
        + (t**3 - 2 * t**2 + t) * slope
        + (3 * t**2 - 2 * t**3) * end
        + (t**3 - t**2) * end_slope
    )


def _between(start: XY, end: XY, t: float) -> XY:
    return start[0] + (end[0] - start[0]) * t, start[1] + (end[1] - start[1]) * t


def _frame(rect: Rect) -> list[XY]:
    """The way round the rectangle."""
    x0, y0, x1, y1 = rect
    return [(x0, y0), (x1, y0), (x1, y1), (x0, y1), (x0, y0)]


def _sides(rect: Rect) -> tuple[float, float]:
    return rect[2] - rect[0], rect[3] - rect[1]


def _intersect(a: Rect, b: Rect) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _inside(rect: Rect, xy: XY) -> bool:
    return rect[0] < xy[0] < rect[2] and rect[1] < xy[1] < rect[3]


def _nearest(rect: Rect, xy: XY) -> XY:
    return min(max(xy[0], rect[0]), rect[2]), min(max(xy[1], rect[1]), rect[3])


def _overlap(a: Rect, b: Rect) -> float:
    """Intersection over union."""
    inner = max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    total = math.prod(_sides(a)) + math.prod(_sides(b)) - inner
    return inner / total if total > 0 else 0.0


# --- below the picture ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Piece:
    """A stretch of the caption in one colour; glued pieces stay on the line of the one before."""

    text: str
    colour: Colour
    chip: bool
    glued: bool


def _pieces(text: str, words: Sequence[PlacedWord]) -> list[_Piece]:
    """The caption cut at blanks and at the borders of words."""
    looks: list[tuple[Colour, bool]] = [(PAPER, False)] * len(text)  # of every character
    for word, colour in zip(words, trace_colours(len(words)), strict=True):
        if word.point is not None:
            looks[word.start : word.end] = [(colour, _says_something(word.text))] * (word.end - word.start)
    pieces: list[_Piece] = []
    for i, character in enumerate(text):
        if character.isspace():
            continue
        glued = i > 0 and not text[i - 1].isspace()
        if glued and looks[i] == looks[i - 1]:
            pieces[-1] = replace(pieces[-1], text=pieces[-1].text + character)
        else:
            pieces.append(_Piece(character, *looks[i], glued))
    return pieces


def _caption_panel(text: str, words: Sequence[PlacedWord], sheet: _Sheet) -> Image.Image:
    size = sheet.font_size
    pad_x, pad_y, leading = 1.1 * size, 0.95 * size, 1.75 * size
    chip_pad, blank = 0.32 * size, 0.30 * size
    strip = max(3, round(0.22 * size))
    lines: list[list[tuple[float, _Piece]]] = [[]]
    x = pad_x
    for piece in _pieces(text, words):
        width = _text_width(piece.text, size) + (2 * chip_pad if piece.chip else 0)
        gap = 0.08 * size if piece.glued else blank
        if lines[-1] and not piece.glued and x + gap + width > sheet.width - pad_x:
            lines.append([])
            x = pad_x
        x += gap if lines[-1] else 0
        lines[-1].append((x, piece))
        x += width
    height = round(strip + 2 * pad_y + leading * len(lines))
    big = Image.new("RGB", (sheet.width * _SAMPLES, height * _SAMPLES), PANEL)
    draw = ImageDraw.Draw(big)
    for column in range(big.width):  # first word to last word: the key to the colours
        draw.line((column, 0, column, strip * _SAMPLES - 1), fill=trace_colour(round(column / big.width, 2)))
    font = _font(size * _SAMPLES)
    for number, line in enumerate(lines):
        middle = (strip + pad_y + leading * (number + 0.5)) * _SAMPLES
        for x, piece in line:
            left = x * _SAMPLES
            if piece.chip:
                right = left + (_text_width(piece.text, size) + 2 * chip_pad) * _SAMPLES
                half = 0.66 * size * _SAMPLES
                draw.rounded_rectangle(
                    (left, middle - half, right, middle + half), radius=0.36 * size * _SAMPLES, fill=piece.colour
                )
                draw.text(((left + right) / 2, middle), piece.text, font=font, fill=INK, anchor="mm")
            else:
                draw.text((left, middle), piece.text, font=font, fill=piece.colour, anchor="lm")
    return big.resize((sheet.width, height), Image.Resampling.BOX)


__all__ = ["PlacedWord", "draw_caption", "trace_colour", "trace_colours"]
