"""mkdocs: how sure locations are said to be against how sure they are, drawn from the reports beside the weights."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

CHECKPOINTS = Path(__file__).parents[2] / "src" / "pixelllm_hf" / "checkpoints"
REPORT = "evaluation_certainty.json"  # what `scripts/evaluate.py --task certainty --json` wrote
SLOT = "<!-- certainty-curves -->"
_SIDE, _MARGIN = 260, 46
# Curve -> what is said, what is true, and a title.
_AXES = {
    "spread": ("spread", "error", "mean error of words with this spread, in sides of the image"),
    "visual": ("visual", "placed", "words with this probability that have a location"),
}


def on_page_markdown(markdown: str, **kwargs: Any) -> str:
    """Fill the slot where a page has one; without a report beside any checkpoint it says so."""
    if SLOT not in markdown:
        return markdown
    found = sorted(CHECKPOINTS.glob(f"*/{REPORT}"))
    if not found:
        return markdown.replace(SLOT, "No embedded checkpoint predicts it yet, so there is no curve to show.")
    return markdown.replace(SLOT, "\n\n".join(_of_checkpoint(file) for file in found))


def _of_checkpoint(file: Path) -> str:
    report = json.loads(file.read_text(encoding="utf-8"))
    drawn = [chart(points, *_AXES[name]) for name, points in report.get("curves", {}).items() if name in _AXES]
    return f"{escape(file.parent.name)}, printed by `{report['command']}`:\n\n<p>{' '.join(drawn)}</p>"


def chart(points: Sequence[Mapping[str, float]], x: str, y: str, title: str) -> str:
    """An SVG of a curve and the diagonal on which a calibrated model lies; circles are as large as many words are."""
    largest = max(1e-9, *(max(point[x], point[y]) for point in points))
    most = max(point["count"] for point in points)

    def at(point: Mapping[str, float]) -> tuple[float, float]:
        return _MARGIN + _SIDE * point[x] / largest, 10 + _SIDE * (1 - point[y] / largest)

    places = [at(point) for point in points]
    line = " ".join(f"{px:.1f},{py:.1f}" for px, py in places)
    dots = "".join(
        f"<circle cx='{px:.1f}' cy='{py:.1f}' r='{2 + 5 * (point['count'] / most) ** 0.5:.1f}' fill='currentColor'>"
        f"<title>{point[x]:.3f}: {point[y]:.3f} ({point['count']:.0f})</title></circle>"
        for (px, py), point in zip(places, points, strict=True)
    )
    low, high = 10 + _SIDE, _MARGIN + _SIDE
    labels = "".join(
        f"<text x='{tx:.0f}' y='{ty:.0f}' font-size='12' text-anchor='{anchor}' fill='currentColor'>{text}</text>"
        for tx, ty, anchor, text in (
            (_MARGIN, low + 18, "start", "0"),
            (high, low + 18, "end", f"{largest:.2f}"),
            (_MARGIN + _SIDE / 2, low + 18, "middle", escape(x)),
            (_MARGIN - 6, 20, "end", f"{largest:.2f}"),
            (_MARGIN - 6, 10 + _SIDE / 2, "end", escape(y)),
        )
    )
    frame = f"<rect x='{_MARGIN}' y='10' width='{_SIDE}' height='{_SIDE}' fill='none' stroke='currentColor'/>"
    diagonal = f"<line x1='{_MARGIN}' y1='{low}' x2='{high}' y2='10' stroke='currentColor' stroke-dasharray='4 4'/>"
    return (
        f"<svg width='{high + 14}' height='{low + 26}' role='img' aria-label='{escape(title, quote=True)}'>"
        f"<title>{escape(title)}</title>{frame}{diagonal}"
        f"<polyline points='{line}' fill='none' stroke='currentColor' stroke-width='2'/>{dots}{labels}</svg>"
    )
