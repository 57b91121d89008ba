"""Evaluation numbers as JSON, as a table, and in a model card. Cards are rendered, never typed.

python -m pixelllm_hf.evaluation.report --template model_card.md --evaluation trace.json \\
    --log "All parts=runs/tiny/metrics.jsonl" --out src/pixelllm_hf/checkpoints/tiny/README.md
"""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pixelllm_hf.files import atomic_text

# name -> (how it is called, how a value is written)
METRICS = {
    "object_f1": ("object F1 of the caption, mean over scenes", "{:.4f}"),
    "object_precision": ("names said that are present", "{:.4f}"),
    "object_recall": ("names present that are said", "{:.4f}"),
    "point_in_box": ("object words whose point is in the object's box", "{:.4f}"),
    "point_in_box_single": ("the same, unambiguous names only", "{:.4f}"),
    "center_error_percent": ("centre error of object words, % of the diagonal", "{:.2f}"),
    "point_l1_teacher_forced": ("point L1 of given narratives, in image sides", "{:.4f}"),
}
# Columns of a learning curve; the first whose columns a log has is shown.
CURVES = (
    ("step", "eval_object_f1", "eval_point_in_box", "eval_center_error_percent"),
    ("step", "eval_fused_foreground_accuracy", "eval_background_accuracy"),
)
SLOT = re.compile(r"<!-- (?P<name>[\w:-]+) -->.*?<!-- /(?P=name) -->", re.S)


class ReportError(ValueError):
    """An evaluation file or template that cannot be used."""


def write_report(path: str | Path, report: Mapping[str, Any]) -> None:
    """JSON with sorted keys, whole or not at all; the same numbers give the same bytes. Unknown values are null."""
    with atomic_text(path) as file:
        file.write(json.dumps(_without_nan(report), indent=1, sort_keys=True, allow_nan=False) + "\n")


def _without_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_nan(item) for key, item in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value


def read_report(path: str | Path) -> dict[str, Any]:
    """An evaluation written by `write_report`."""
    try:
        report = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise ReportError(f"{path} is not an evaluation ({error}); make it with scripts/evaluate.py --json.") from error
    if not isinstance(report, dict) or not {"task", "metrics", "scenes"} <= set(report):
        raise ReportError(f"{path} is not an evaluation: task, metrics or scenes are missing.")
    return report


def metrics_table(report: Mapping[str, Any]) -> str:
    """A markdown table: value, 95 % interval and over how many scenes or words it is taken."""
    rows = ["| metric | value | 95 % interval | over |", "|---|---|---|---|"]
    metrics = report["metrics"]
    ordered = [name for name in METRICS if name in metrics] + [name for name in metrics if name not in METRICS]
    for name, estimate in ((name, metrics[name]) for name in ordered):
        title, form = METRICS.get(name, (name, "{:.4f}"))
        rows.append(
            f"| {title} (`{name}`) | {_written(estimate['value'], form)} | "
            f"{_written(estimate['low'], form)} to {_written(estimate['high'], form)} | {estimate['count']} |"
        )
    return "\n".join(rows)


def _written(value: float | None, form: str) -> str:
    return "none" if value is None or math.isnan(value) else form.format(value)


def how_made(report: Mapping[str, Any]) -> str:
    """One sentence on what was measured and how to get the same numbers."""
    data, decoding = report["data"], report["decoding"]
    what = (
        f"{report['scenes']} composed scenes (seed {data['seed']})"
        if "seed" in data
        else f"{report['scenes']} scenes of {data['folder']}"
    )
    search = "greedy decoding" if decoding["num_beams"] == 1 else f"{decoding['num_beams']} beams"
    return f"Measured on {what} from `generate()` output, {search}; printed by `{report['command']}`."


def learning_curve(lines: Sequence[Mapping[str, Any]]) -> str:
    """Records of a training log that have all columns of one of `CURVES`, as a markdown table."""
    known = [curve for curve in CURVES if any(all(column in record for column in curve) for record in lines)]
    if not known:
        raise ReportError(f"the log has no record with all of {' or of '.join(', '.join(c) for c in CURVES)}.")
    columns = known[0]
    rows = ["| " + " | ".join(column.removeprefix("eval_") for column in columns) + " |", "|" + "---|" * len(columns)]
    for record in lines:
        if all(column in record for column in columns):
            rows.append("| " + " | ".join(_cell(record[column]) for column in columns) + " |")
    return "\n".join(rows)


def _cell(value: Any) -> str:
    return _written(value, "{:.4g}") if isinstance(value, float) else str(value)


def render_card(template: str, slots: Mapping[str, str]) -> str:
    """Fill `<!-- name -->…<!-- /name -->` of the template; a slot that the template lacks is an error.

    >>> render_card("a <!-- x --><!-- /x --> b", {"x": "1"})
    'a <!-- x -->\\n1\\n<!-- /x --> b'
    """
    present = {match["name"] for match in SLOT.finditer(template)}
    unknown = sorted(set(slots) - present)
    if unknown:
        raise ReportError(f"the template has no slot for {', '.join(unknown)}; its slots are {sorted(present)}.")

    def filled(match: re.Match[str]) -> str:
        name = match["name"]
        return f"<!-- {name} -->\n{slots[name]}\n<!-- /{name} -->" if name in slots else match[0]

    return SLOT.sub(filled, template)


def main(arguments: Sequence[str] | None = None) -> int:
    """Render a template from evaluations and, if given, a training log."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--template", required=True, type=Path)
    parser.add_argument("--evaluation", required=True, type=Path, action="append", help="JSON of scripts/evaluate.py")
    parser.add_argument(
        "--log", default=[], action="append", metavar="TITLE=FILE", help="training log, one JSON record a line; repeat"
    )
    parser.add_argument("--out", required=True, type=Path)
    args = parser.parse_args(arguments)
    try:
        slots = {}
        for path in args.evaluation:
            report = read_report(path)
            slots[f"metrics:{report['task']}"] = f"{how_made(report)}\n\n{metrics_table(report)}"
        curves = []
        for title, _, path in (log.rpartition("=") for log in args.log):
            records = [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]
            curves.append(f"{title}:\n\n{learning_curve(records)}" if title else learning_curve(records))
        if curves:
            slots["learning-curve"] = "\n\n".join(curves)
        card = render_card(args.template.read_text(encoding="utf-8"), slots)
        with atomic_text(args.out) as file:
            file.write(card)
    except (ReportError, OSError, json.JSONDecodeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
