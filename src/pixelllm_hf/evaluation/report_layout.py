"""What an evaluation's JSON looks like, and what about one is not so."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

Test = Callable[[Any], bool]


def _text(value: Any) -> bool:
    return isinstance(value, str) and value.isprintable()


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(map(_text, value))


def _number(value: Any) -> bool:
    if isinstance(value, int):
        return not isinstance(value, bool) and abs(value) < 1 << 63
    return isinstance(value, float) and math.isfinite(value)


def _count(value: Any) -> bool:
    return _number(value) and isinstance(value, int) and value >= 0


def _object(value: Any) -> bool:
    return isinstance(value, dict)


def _paragraphs(value: Any) -> bool:
    return isinstance(value, str) and all(sign.isprintable() or sign == "\n" for sign in value)


# Entry, dotted -> what it must be, in words and as a test. Other entries are free; whole numbers are counts.
REQUIRED: dict[str, tuple[str, Test]] = {
    "task": ("a line of text", _text),
    "scenes": ("a count", _count),
    "metrics": ("an object", _object),
    "data": ("an object", _object),
    "decoding": ("an object", _object),
    "command": ("a line of text", _text),
}
OPTIONAL: dict[str, tuple[str, Test]] = {
    "notes": ("a list of texts", _texts),
    "decoding.num_beams": ("a count", _count),
    "data.title": ("a line of text", _text),
    "data.description": ("a text", _paragraphs),
    "data.folder": ("a line of text", _text),
    "data.split": ("a line of text", _text),
    "data.kind": ("a line of text", _text),
    "baseline": ("a line of text", _text),
    "data.seed": ("a whole number", lambda value: _number(value) and isinstance(value, int)),
    "data.names": ("an object", _object),
}


def problem_of(report: Any) -> str | None:
    """What about an evaluation is not as it should be, by its entry; None where all is."""
    if not isinstance(report, dict):
        return f"it holds a {type(report).__name__} where an object is expected"
    for entry, (expected, test) in {**REQUIRED, **OPTIONAL}.items():
        value = _at(report, entry)
        if value is None and entry in OPTIONAL:
            continue
        if not test(value):
            return f"{entry} must be {expected}, but is {'missing' if value is None else _shown(value)}"
    for name, value in report.items():
        if isinstance(value, int) and not isinstance(value, bool) and not _count(value):
            return f"{name[:100]} must be a count, but is {_shown(value)}"
    data = report["data"]
    return (
        _problem_of_data(data)
        or _problem_of_names(data.get("names"))
        or _problem_of_metrics(report)
        or _problem_of_curves(report.get("curves", {}))
    )


def _at(report: Mapping[str, Any], entry: str) -> Any:
    first, _, second = entry.partition(".")
    value = report.get(first)
    return value.get(second) if second and isinstance(value, dict) else None if second else value


def _problem_of_metrics(report: Mapping[str, Any]) -> str | None:
    for name, estimate in report["metrics"].items():
        if not _text(name) or not _object(estimate):
            return f"metrics.{name[:100]} must be an object"
        for part in ("value", "low", "high"):
            if part not in estimate or not (estimate[part] is None or _number(estimate[part])):
                return f"metrics.{name}.{part} must be a number or null, but is {_shown(estimate.get(part, 'missing'))}"
        if not _count(estimate.get("count")):
            return f"metrics.{name}.count must be a count, but is {_shown(estimate.get('count', 'missing'))}"
    return None


def _problem_of_curves(curves: Any) -> str | None:
    if not _object(curves):
        return f"curves must be an object, but is {_shown(curves)}"
    for name, points in curves.items():
        if not isinstance(points, list) or not points or not all(map(_object, points)):
            return f"curves.{name[:100]} must be a list of objects, one or more"
        columns = list(points[0])
        if not all(list(point) == columns and all(map(_number, point.values())) for point in points):
            return f"curves.{name[:100]} must have the same numbers in every point"
        if not columns or not all(map(_text, columns)):
            return f"curves.{name[:100]} must have numbers with names"
    return None


def _problem_of_data(data: Mapping[str, Any]) -> str | None:
    if not ({"title", "seed", "folder"} & set(data)):
        return "data has no title, seed or folder"
    return None


def _problem_of_names(names: Any) -> str | None:
    if names is None:
        return None
    counted = names.get("counted")
    if not _object(counted) or not all(_text(name) and _texts(own) for name, own in counted.items()):
        return "data.names.counted must give a list of names for each name"
    return None if _texts(names.get("not_counted")) else "data.names.not_counted must be a list of names"


def _shown(value: Any) -> str:
    try:
        text = repr(value)
    except (ValueError, RecursionError):
        text = f"a {type(value).__name__} that is too large to show"
    return text if len(text) <= 120 else text[:120] + " …"
