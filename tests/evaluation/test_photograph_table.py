"""The figures of photographs in one table of a card."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pixelllm_hf.evaluation import report
from pixelllm_hf.evaluation.photograph_table import FIGURES, PUBLISHED, is_of_photographs, photograph_table
from pixelllm_hf.evaluation.report import read_report
from pixelllm_hf.publishing.model_card import load_reports, render_model_card


def evaluation(task: str, metrics: dict[str, float], baseline: str | None = None) -> dict[str, Any]:
    kind = "categories" if task in ("region", "dense", "segment") else "phrases"
    made = {"baseline": baseline, "decoding": {}} if baseline else {"weights_sha256": "a" * 64, "decoding": {}}
    return {
        "task": task,
        "scenes": 7,
        "command": f"python scripts/evaluate.py --task {task}" + (f" --baseline {baseline}" if baseline else ""),
        "data": {"folder": "photos", "split": "val", "kind": kind},
        "metrics": {name: {"value": v, "low": v - 0.1, "high": v + 0.1, "count": 7} for name, v in metrics.items()},
        "versions": {},
        **made,
    }


REPORTS = [
    evaluation("phrases", {"R@1": 0.5, "point_in_box": 0.7, "mean_IoU": 0.4}),
    evaluation("phrases", {"R@1": 0.125, "point_in_box": 0.25, "mean_IoU": 0.1}, "fixed"),
    evaluation("phrases", {"R@1": 0.375, "point_in_box": 0.65, "mean_IoU": 0.3}, "teacher"),
    evaluation("region", {"head_noun": 0.6}),
    evaluation("region", {"head_noun": 0.45}, "fixed"),
]


def test_a_figure_has_its_baselines_in_its_row():
    lines = photograph_table(REPORTS).splitlines()
    assert lines[0] == "| figure | this model | 95 % interval | one answer for all | detector alone |"
    assert next(line for line in lines if "`R@1`)" in line).endswith("| 0.500 | 0.400 to 0.600 | 0.125 | 0.375 |")
    assert next(line for line in lines if "`head_noun`)" in line).endswith("| 0.600 | 0.500 to 0.700 | 0.450 |  |")
    assert not any("mean_IoU" in line for line in lines)
    assert sum("`python scripts/evaluate.py" in line for line in lines) == len(REPORTS)


def test_published_numbers_come_with_their_sources_and_only_beside_ours():
    assert all(one.source.startswith("https://") and one.data for one in PUBLISHED)
    assert {(one.task, one.metric) for one in PUBLISHED} <= {(task, metric) for task, metric, _ in FIGURES}
    table = photograph_table(REPORTS)
    assert "mdetr" in table and "YOLOX" not in table


def test_a_published_card_has_the_table_and_an_index_of_the_model_alone(tmp_path: Path):
    files = []
    for number, made in enumerate(REPORTS):
        files.append(tmp_path / f"evaluation_{number}.json")
        report.write_report(files[-1], made)
    loaded = load_reports(files, weights_sha256="a" * 64)
    assert loaded == [read_report(file) for file in files] and all(map(is_of_photographs, loaded))
    card = render_model_card(None, repo_id="org/name", reports=loaded, license="mit", facts={})
    assert "## On photographs" in card and "| detector alone |" in card and "metrics:phrases" not in card
    assert card.count("type: R@1") == 1, "baselines are no results of the model"


def test_the_renderer_of_templates_fills_the_slot(tmp_path: Path):
    (tmp_path / "template.md").write_text("---\nlicense: mit\n---\n# M\n\n<!-- photographs --><!-- /photographs -->\n")
    arguments = ["--template", str(tmp_path / "template.md"), "--out", str(tmp_path / "card.md")]
    for number, made in enumerate(REPORTS):
        (tmp_path / f"{number}.json").write_text(json.dumps(made))
        arguments += ["--evaluation", str(tmp_path / f"{number}.json")]
    assert report.main(arguments) == 0
    card = (tmp_path / "card.md").read_text()
    assert "| detector alone |" in card and "photographs of photos, split val" in card
