from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pixelllm_hf.evaluation import report
from pixelllm_hf.evaluation.report import (
    ReportError,
    learning_curve,
    metrics_table,
    read_report,
    render_card,
    write_report,
)

NAN = float("nan")
EVALUATION: dict[str, Any] = {
    "task": "trace",
    "model": "tiny",
    "command": "python scripts/evaluate.py --task trace --model tiny",
    "data": {"seed": 9},
    "decoding": {"num_beams": 1},
    "scenes": 7,
    "metrics": {
        "object_f1": {"value": 0.5, "low": 0.25, "high": 0.75, "count": 7},
        "point_in_box": {"value": NAN, "low": NAN, "high": NAN, "count": 0},
    },
}
TEMPLATE = """# Card

<!-- metrics:trace -->
old
<!-- /metrics:trace -->

<!-- learning-curve --><!-- /learning-curve -->
"""


def test_the_table_has_a_row_for_each_metric():
    lines = metrics_table(EVALUATION).splitlines()
    assert "| 0.5000 | 0.2500 to 0.7500 | 7 |" in lines[2]
    assert "none" in lines[3]


def test_a_report_survives_the_round_trip_and_unknown_values_are_null(tmp_path: Path):
    write_report(tmp_path / "a.json", EVALUATION)
    assert read_report(tmp_path / "a.json")["metrics"]["object_f1"] == EVALUATION["metrics"]["object_f1"]
    assert "NaN" not in (tmp_path / "a.json").read_text()
    assert "none" in metrics_table(read_report(tmp_path / "a.json"))


def test_rendering_twice_changes_nothing_more():
    once = render_card(TEMPLATE, {"metrics:trace": "new"})
    assert "new" in once and "old" not in once
    assert render_card(once, {"metrics:trace": "new"}) == once


def test_a_slot_that_the_template_lacks_is_an_error():
    with pytest.raises(ReportError, match="metrics:refer"):
        render_card(TEMPLATE, {"metrics:refer": "x"})


def test_the_command_renders_numbers_and_every_stage_of_the_learning_curve(tmp_path: Path):
    write_report(tmp_path / "trace.json", EVALUATION)
    (tmp_path / "card.md").write_text(TEMPLATE)
    logs = {
        "towers": [{"step": 7, "eval_fused_foreground_accuracy": 0.5, "eval_background_accuracy": 0.25}],
        "words": [
            {"step": 1, "loss": 2.0},
            {"step": 500, "eval_object_f1": 0.123456, "eval_point_in_box": 0.5, "eval_center_error_percent": 3.0},
        ],
    }
    arguments = ["--template", str(tmp_path / "card.md"), "--evaluation", str(tmp_path / "trace.json")]
    for title, log in logs.items():
        path = tmp_path / f"{title}.jsonl"
        path.write_text("".join(json.dumps(record) + "\n" for record in log))
        arguments += ["--log", f"{title}={path}"]
    assert report.main([*arguments, "--out", str(tmp_path / "README.md")]) == 0
    card = (tmp_path / "README.md").read_text()
    assert "7 composed scenes (seed 9)" in card and "| 500 | 0.1235 | 0.5 | 3 |" in card and "| 1 |" not in card
    assert card.index("towers:") < card.index("| 7 | 0.5 | 0.25 |") < card.index("words:")


def test_a_log_without_a_learning_curve_is_refused():
    with pytest.raises(ReportError, match="no record with all of"):
        learning_curve([{"step": 1, "loss": 2.0}])


def test_a_file_that_is_no_evaluation_is_named(tmp_path: Path, capsys):
    (tmp_path / "x.json").write_text("[]")
    (tmp_path / "card.md").write_text(TEMPLATE)
    out = tmp_path / "out.md"
    code = report.main(
        ["--template", str(tmp_path / "card.md"), "--evaluation", str(tmp_path / "x.json"), "--out", str(out)]
    )
    assert code == 2 and "x.json" in capsys.readouterr().err and not out.exists()


def test_the_card_template_has_the_slots_that_are_filled():
    template = (Path(__file__).parents[2] / "model_card.md").read_text(encoding="utf-8")
    render_card(template, {"metrics:trace": "", "learning-curve": ""})
