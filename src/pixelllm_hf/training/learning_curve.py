"""How the numbers of runs went, as tables for people: from the metrics.jsonl that every run leaves."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from pixelllm_hf.training.recipe_values import ConfigError

Rows = list[dict[str, float]]


def read_metrics(run: str | Path) -> Rows:
    """The rows of a run's metrics.jsonl, by step; the last line of a killed run may be cut."""
    path = Path(run) / "metrics.jsonl"
    if not path.is_file():
        raise ConfigError(f"{str(run)!r} has no metrics.jsonl. Name the output_dir of a run that has logged something.")
    rows: Rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(line)
            rows.append({name: float(value) for name, value in row.items()} | {"step": int(row["step"])})
        except (ValueError, KeyError, TypeError, AttributeError):
            continue
    return sorted(rows, key=lambda row: row["step"])


def learning_curve(rows: Rows, names: Sequence[str] = (), *, points: int = 12) -> str:
    """A Markdown table: a line for each of `points` equal stretches of the run, each number its mean there.

    names: columns, by default the losses and what was evaluated, without those of single sources.
    """
    logged = dict.fromkeys(name for row in rows for name in row)
    if unknown := [name for name in names if name not in logged]:
        raise ConfigError(f"the run has no number {unknown[0]!r}; it has {', '.join(logged)}.")
    columns = list(names) or [name for name in logged if "/" not in name and name not in _PLAIN]
    last = max((row["step"] for row in rows), default=0)
    lines = [f"| step | {' | '.join(columns)} |", f"|{'---|' * (len(columns) + 1)}"]
    start = 0.0
    for point in range(1, points + 1):
        end = last * point / points
        here = [row for row in rows if start < row["step"] <= end]
        start = end
        if here:
            cells = [_mean([row[name] for row in here if name in row]) for name in columns]
            lines.append(f"| {int(here[-1]['step'])} | {' | '.join(cells)} |")
    return "\n".join(lines)


_PLAIN = ("step", "grad_norm", "learning_rate", "images_per_second")


def _mean(values: Sequence[float]) -> str:
    return f"{fmean(values):.4g}" if values else ""
