"""What training makes of the `evaluate` entries of a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from torch import nn

from pixelllm_hf.training.config import ConfigError, load_config
from pixelllm_hf.training.language_objective import evaluation
from pixelllm_hf.training.recipe import TrainConfig

VALIDATE = "pixelllm_hf.evaluation.runner:validate"


def test_the_tasks_of_a_recipe_reach_its_evaluation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "recipe.yaml").write_text(
        f"data: {{sources: []}}\nevaluate: {VALIDATE}\nevaluate_options: {{tasks: [refer], scenes: 3}}\n"
    )
    recipe = load_config(TrainConfig, tmp_path / "recipe.yaml", ["evaluate_options.tasks=[trace, refer]"])
    seen: dict[str, Any] = {}

    def validate(model: Any, processor: Any, tasks: Any = None, *, scenes: int | None = None) -> dict[str, float]:
        seen.update(processor=processor, tasks=tasks, scenes=scenes)
        return {"refer_p50": 0.5}

    monkeypatch.setattr("pixelllm_hf.evaluation.runner.validate", validate)
    hook = evaluation(recipe.evaluate, recipe.evaluate_options, nn.Identity(), "the processor")
    assert hook is not None
    assert hook(nn.Identity(), 7) == {"refer_p50": 0.5}
    assert seen == {"processor": "the processor", "tasks": ["trace", "refer"], "scenes": 3}


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (VALIDATE, {"task": ["refer"]}, "are no options of"),
        (None, {"tasks": ["refer"]}, "need evaluate"),
        ("pixelllm_hf.evaluation.runner:vallidate", {}, "cannot be imported"),
    ],
)
def test_what_cannot_work_is_refused_before_training(name: str | None, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        evaluation(name, options, nn.Identity(), None)
