"""What a notebook shows of a result: its text, and where its words, box and outline lie on an empty frame."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from .draw_objects import OBJECT_COLOURS
from .mask_codec import mask_to_polygons

_LONGER_SIDE = 320  # of the frame, in pixels of the page


def result_html(result: Any) -> str:
    """An HTML fragment that needs neither scripts nor the image; see `GroundedCaption` for the fields that it shows."""
    words = result.placed_words
    located = [word for word in words if word.point is not None]
    colours = {id(word): _hex(i) for i, word in enumerate(located)}
    unsure = any(word.visual is not None or word.spread is not None for word in words)
    head = "".join(
        f"<th>{name}</th>" for name in ("", "word", "point", "box", "score", "±", "place")[: 7 if unsure else 5]
    )
    rows = "".join(_row(word, colours.get(id(word)), unsure) for word in words if unsure or word.point is not None)
    table = f"<tr>{head}</tr>{rows}" if rows else ""
    facts = [] if result.prompt_box is None else [f"asked {_numbers(result.prompt_box)}"]
    for target in result.targets:
        if len(result.targets) > 1:
            facts.append(result.text[target.start : target.end])
        if target.box is not None:
            facts.append(f"box {_numbers(target.box)}")
        if target.mask is not None:
            facts.append(f"mask {int(target.mask.sum())} pixels")
        scores = {"box score": target.box_score, "mask score": target.mask_score}
        facts += [f"{name} {_score(value)}" for name, value in scores.items() if value is not None]
    width, height = result.image_size
    return (
        f"<div><p>{_text(result, words, colours)}</p>{_frame(result, located, colours)}"
        f"<p>{escape(' · '.join([f'image {width} × {height}', *facts]))}</p><table>{table}</table></div>"
    )


def _row(word: Any, colour: str | None, unsure: bool) -> str:
    """A word of the table; unsure: with how far off its box may be and how likely it has a location."""
    dot = "<td></td>" if colour is None else f"<td style='color:{colour}'>●</td>"
    values = [_numbers(word.point), _numbers(word.box), _score(word.score)]
    if unsure:
        values += [_numbers(None if word.box is None else word.spread), _score(word.visual)]
    cells = "".join(f"<td>{value}</td>" for value in values)
    return f"<tr>{dot}<td style='text-align:left'>{escape(word.text)}</td>{cells}</tr>"


def _text(result: Any, words: Sequence[Any], colours: dict[int, str]) -> str:
    """The answer, each located word underlined in the colour of its point."""
    pieces, position = [], 0
    for word in words:
        if id(word) in colours and word.start >= position:
            pieces.append(escape(result.text[position : word.start]))
            said = escape(result.text[word.start : word.end])
            pieces.append(f"<span style='border-bottom:3px solid {colours[id(word)]}'>{said}</span>")
            position = word.end
    return "".join(pieces) + escape(result.text[position:])


def _frame(result: Any, located: Sequence[Any], colours: dict[int, str]) -> str:
    width, height = result.image_size
    unit = max(width, height) / _LONGER_SIDE
    marks = []
    for number, target in enumerate(result.targets):
        for outline in [] if target.mask is None else mask_to_polygons(target.mask):
            corners = " ".join(f"{x:g},{y:g}" for x, y in zip(outline[::2], outline[1::2], strict=True))
            marks.append(f"<polygon points='{corners}' fill='{_hex(number)}' fill-opacity='0.4'/>")
    boxes = [result.prompt_box, *(target.box for target in result.targets)]
    marks += [_rectangle(box, unit) for box in boxes if box is not None]
    for word in located:
        x, y = word.point
        marks.append(
            f"<circle cx='{x:.1f}' cy='{y:.1f}' r='{5 * unit:.2f}' fill='{colours[id(word)]}'>"
            f"<title>{escape(word.text, quote=True)}</title></circle>"
        )
    return (
        f"<svg viewBox='0 0 {width} {height}' width='{width / unit:.0f}' height='{height / unit:.0f}' "
        f"style='border:1px solid #888'>{''.join(marks)}</svg>"
    )


def _rectangle(box: Sequence[float], unit: float) -> str:
    x0, y0, x1, y1 = box
    return (
        f"<rect x='{x0:.1f}' y='{y0:.1f}' width='{x1 - x0:.1f}' height='{y1 - y0:.1f}' fill='none' "
        f"stroke='{_hex(1)}' stroke-width='{2 * unit:.2f}'/>"
    )


def _hex(index: int) -> str:
    return "#{:02x}{:02x}{:02x}".format(*OBJECT_COLOURS[index % len(OBJECT_COLOURS)])


def _numbers(values: Sequence[float] | None) -> str:
    return "" if values is None else "(" + ", ".join(f"{value:.1f}" for value in values) + ")"


def _score(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


__all__ = ["result_html"]
