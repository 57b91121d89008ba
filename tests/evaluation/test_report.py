from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from pixelllm_hf import embedded_checkpoint
from pixelllm_hf.evaluation import report
from pixelllm_hf.evaluation.report import (
    ReportError,
    learning_curve,
    metrics_table,
    read_report,
    render_card,
    write_report,
)
from pixelllm_hf.evaluation.tasks import NAMES

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
REFER: dict[str, Any] = {
    **EVALUATION,
    "task": "refer",
    "decoding": {"dtype": "float32"},
    "expressions": 30,
    "notes": ["one box per expression"],
    "metrics": {"P@0.5": {"value": 0.9, "low": 0.8, "high": 1.0, "count": 30}},
}
TEMPLATE = """---
license: apache-2.0
---

# Card

<!-- metrics:trace -->
old
<!-- /metrics:trace -->

<!-- metrics:refer -->
<!-- /metrics:refer -->

<!-- other-images -->
<!-- /other-images -->

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
    with pytest.raises(ReportError, match="metrics:dense"):
        render_card(TEMPLATE, {"metrics:dense": "x"})


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


def rendered(tmp_path: Path, *evaluations: dict[str, Any]) -> str:
    (tmp_path / "card.md").write_text(TEMPLATE)
    arguments = ["--template", str(tmp_path / "card.md"), "--out", str(tmp_path / "README.md")]
    for i, evaluation in enumerate(evaluations):
        write_report(tmp_path / f"{i}.json", evaluation)
        arguments += ["--evaluation", str(tmp_path / f"{i}.json")]
    assert report.main(arguments) == 0
    return (tmp_path / "README.md").read_text()


def test_every_task_that_was_measured_has_a_section_and_no_other(tmp_path: Path):
    card = rendered(tmp_path, EVALUATION, REFER, {**REFER, "data": {"seed": 9, "objects": "stamps"}})
    trace, _, refer = card.partition(f"### {report.title_of('refer')}")
    assert f"### {report.title_of('trace')}" in trace and "greedy decoding" in trace
    assert refer.count("(`P@0.5`)") == 2 and "objects: stamps" in refer and "the text is given" in refer
    assert "one box per expression" in refer and "7 scenes, 30 expressions" in refer
    alone = rendered(tmp_path, EVALUATION)
    assert report.title_of("refer") not in alone and "old" not in alone


def test_evaluations_on_other_images_stand_apart_under_their_titles(tmp_path: Path):
    names = {"source": "builtin", "counted": {"car": ["car", "race car"]}, "not_counted": ["badger"]}
    data = {"seed": 9, "title": "Cut-outs", "description": "Of photographs, by A. N. Other.", "names": names}
    card = rendered(tmp_path, EVALUATION, {**REFER, "data": data}, {**EVALUATION, "data": data})
    main, _, others = card.partition("## Other images")
    assert report.title_of("trace") in main and f"### {report.title_of('refer')}" not in main
    assert others.index("### Cut-outs") < others.index(f"#### {report.title_of('trace')}")
    assert others.count("by A. N. Other.") == others.count("2 count under one") == 1, "said once for all tasks"
    assert "Of 3 names of objects 2" in others and "car (car, race car)" in others and "Not counted: badger." in others
    assert 'Measured on 7 images of "Cut-outs"' in others and "No target was set" in others
    assert '7 images of "Cut-outs"' in {r.dataset_name for r in ModelCard(card).data.eval_results}  # type: ignore[attr-defined]
    assert "Other images" not in rendered(tmp_path, EVALUATION)


def test_the_metadata_of_a_card_holds_what_was_measured(tmp_path: Path):
    card = rendered(tmp_path, EVALUATION, REFER)
    results = ModelCard(card).data.eval_results  # type: ignore[attr-defined]
    found = {(result.task_name, result.metric_type): result.metric_value for result in results}
    assert len({result.unique_identifier for result in results}) == 2
    assert found == {(report.title_of("trace"), "object_f1"): 0.5, (report.title_of("refer"), "P@0.5"): 0.9}
    assert results[0].dataset_name == "7 composed scenes (seed 9)"
    assert report.with_model_index(card, [EVALUATION, REFER]) == card
    assert "object_f1" not in report.with_model_index(card, [REFER]).split("---")[1]


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


def test_the_card_templates_have_the_slots_that_are_filled():
    template = (Path(__file__).parents[2] / "model_card.md").read_text(encoding="utf-8")
    render_card(template, {report.PHOTOGRAPHS: ""})
    template = (embedded_checkpoint("tiny") / "provenance" / "model_card.md").read_text(encoding="utf-8")
    render_card(template, dict.fromkeys(["learning-curve", *report.optional_slots() - {report.PHOTOGRAPHS}], ""))
    assert set(report.tasks_of_a_card()) == set(NAMES)
