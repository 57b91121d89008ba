"""A drawing of a grounded caption: words in the colours of the trace, joined to their places, the caption below."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise
from typing import Protocol

from PIL import Image

from .drawing_canvas import (
    BLANK,
    GLUED,
    HALO,
    PAPER,
    WHITE,
    XY,
    Colour,
    Overlay,
    Piece,
    Rect,
    Sheet,
    frame,
    inside,
    intersect,
    nearest,
    overlap,
    sides,
    text_panel,
    text_width,
)

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
    """-> a new RGB image: the given one, its longer side brought between min_side and max_side, and a caption panel.

    words: in reading order, locations in pixels of `image`; words without a location appear in the caption only.
    prompt_box, prompt_points: what was asked about, drawn in white.
    trace, boxes, labels: what is drawn over the image.
    """
    sheet = Sheet.fit(image.size, min_side, max_side)
    marks = _marks(words, sheet)
    overlay = _CaptionOverlay(sheet)
    overlay.prompt(prompt_box, prompt_points)
    if boxes:
        overlay.boxes(marks)
    if trace:
        overlay.trace(marks)
    if labels:
        overlay.labels(marks)
    overlay.dots(marks)
    # first word to last word: the strip is the key to the colours
    return sheet.joined(sheet.shown(image), overlay, text_panel(_pieces(text, words), sheet, key=trace_colour))


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


# --- what to mark ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Mark:
    """A word with a location, in sheet pixels."""

    text: str
    xy: XY
    rect: Rect | None
    colour: Colour
    says_something: bool


def _marks(words: Sequence[PlacedWord], sheet: Sheet) -> list[_Mark]:
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


def _pieces(text: str, words: Sequence[PlacedWord]) -> list[Piece]:
    """The caption cut at blanks and at the borders of words."""
    looks: list[tuple[Colour, bool]] = [(PAPER, False)] * len(text)  # of every character
    for word, colour in zip(words, trace_colours(len(words)), strict=True):
        if word.point is not None:
            looks[word.start : word.end] = [(colour, _says_something(word.text))] * (word.end - word.start)
    pieces: list[Piece] = []
    for i, character in enumerate(text):
        if character.isspace():
            continue
        glued = i > 0 and not text[i - 1].isspace()
        if glued and looks[i] == looks[i - 1]:
            pieces[-1] = replace(pieces[-1], text=pieces[-1].text + character)
        else:
            colour, chip = looks[i]
            pieces.append(Piece(character, colour, chip, glued, GLUED if glued else BLANK))
    return pieces


# --- over the image -----------------------------------------------------------------------------------------


class _CaptionOverlay(Overlay):
    """The marks of words; every method takes sheet pixels."""

    def dots(self, marks: Iterable[_Mark]) -> None:
        """A ringed dot at each location; small ones for words without meaning of their own."""
        for mark in sorted(marks, key=lambda mark: mark.says_something):
            radius = self.unit * (3.6 if mark.says_something else 2.2)
            self.disc(mark.xy, radius + self.unit * 1.3, HALO)
            self.disc(mark.xy, radius + self.unit * 0.7, (*WHITE, 255))
            self.disc(mark.xy, radius, (*mark.colour, 255))

    def trace(self, marks: Sequence[_Mark]) -> None:
        """A smooth line through the places in reading order, its colour running from word to word."""
        path = _smooth_path([(mark.xy, mark.colour) for mark in marks], step=2 * self.unit)
        for start, end in pairwise(path):
            self.line(start[0], end[0], 3.8 * self.unit, HALO)
        for start, end in pairwise(path):
            self.line(start[0], end[0], 2.0 * self.unit, (*end[1], 255))

    def boxes(self, marks: Sequence[_Mark]) -> None:
        """Faint frames with firm corners around what words with a meaning name; near copies once."""
        chosen: list[tuple[_Mark, Rect]] = []
        for mark in marks:
            if mark.rect is None or not mark.says_something or min(sides(mark.rect)) < 10 * self.unit:
                continue
            if all(overlap(mark.rect, other) < 0.75 for _, other in chosen):
                chosen.append((mark, mark.rect))
        for mark, rect in chosen:
            for start, end in pairwise(frame(rect)):
                self.line(start, end, 1.0 * self.unit, (*mark.colour, 120))
        for mark, (x0, y0, x1, y1) in chosen:
            arm = min(16 * self.unit, 0.35 * min(x1 - x0, y1 - y0))
            for width, colour in ((4.0 * self.unit, HALO), (2.2 * self.unit, (*mark.colour, 255))):
                for x, dx in ((x0, arm), (x1, -arm)):
                    for y, dy in ((y0, arm), (y1, -arm)):
                        self.line((x, y), (x + dx, y), width, colour)
                        self.line((x, y), (x, y + dy), width, colour)

    def labels(self, marks: Sequence[_Mark]) -> None:
        """The words with a meaning on tags beside their places, joined by a line; those that find no room are left."""
        size = self.sheet.font_size * 0.74
        placed: list[tuple[_Mark, Rect]] = []
        for mark in _joined(marks, near=9 * self.unit):
            width = text_width(mark.text, size) + 0.9 * size
            rect = self._free_rect(mark, width, 1.45 * size, [rect for _, rect in placed], marks)
            if rect is not None:
                placed.append((mark, rect))
        for mark, rect in placed:
            end = nearest(rect, mark.xy)
            self.line(mark.xy, end, 2.6 * self.unit, HALO)
            self.line(mark.xy, end, 1.1 * self.unit, (*mark.colour, 255))
        for mark, rect in placed:
            self.tag(rect, mark.text, size, mark.colour)

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
                wide = (rect[0] - margin, rect[1] - margin, rect[2] + margin, rect[3] + margin)
                if not self.fits(rect) or any(intersect(wide, other) for other in taken):
                    continue
                covered = sum(inside(wide, other.xy) for other in marks)
                cost = distance + 14 * self.unit * covered + 3 * self.unit * (math.sin(angle) > 0)
                if cost < best_cost:
                    best, best_cost = rect, cost
        return best


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


__all__ = ["PlacedWord", "draw_caption", "trace_colour", "trace_colours"]
