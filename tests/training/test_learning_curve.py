"""Tables of how a run went."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pixelllm_hf.training.learning_curve import learning_curve, read_metrics
from pixelllm_hf.training.recipe_values import ConfigError


@pytest.fixture
def run(tmp_path: Path) -> Path:
    rows = [{"step": step, "loss": 10.0 / step, "loss/coco": 1.0, "grad_norm": 3.0} for step in (10, 20, 30, 40)]
    rows.append({"step": 40, "eval_text": 2.5})
    lines = [json.dumps(row) for row in rows]
    (tmp_path / "metrics.jsonl").write_text("\n".join([*lines, '{"step": 50, "lo']), encoding="utf-8")
    return tmp_path


def test_a_line_is_the_mean_of_its_stretch_and_single_sources_stay_out(run: Path) -> None:
    lines = learning_curve(read_metrics(run), points=2).splitlines()
    assert lines == ["| step | loss | eval_text |", "|---|---|---|", "| 20 | 0.75 |  |", "| 40 | 0.2917 | 2.5 |"]


def test_columns_can_be_chosen(run: Path) -> None:
    assert learning_curve(read_metrics(run), ["loss/coco"], points=1).splitlines()[-1] == "| 40 | 1 |"
    with pytest.raises(ConfigError, match="lose"):
        learning_curve(read_metrics(run), ["lose"])


def test_a_folder_without_a_log_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=tmp_path.name):
        read_metrics(tmp_path)
