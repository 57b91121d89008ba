"""Recipes: strict keys, typed values, overrides."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pixelllm_hf.training.config import ConfigError, from_dict, load_config, to_dict
from pixelllm_hf.training.mask_pretraining import MaskPretrainConfig
from pixelllm_hf.training.prompt_pretraining import PromptPretrainConfig
from pixelllm_hf.training.recipe import TrainConfig
from pixelllm_hf.training.vision_pretraining import VisionPretrainConfig

CONFIGS = Path(__file__).parents[2] / "configs"
SOURCE = {"format": "coco_captions", "annotations": "a.json", "images": "i"}


@pytest.mark.parametrize("file", sorted(path.name for path in CONFIGS.glob("*.yaml")))
def test_every_committed_recipe_is_valid(file: str) -> None:
    of_stage: dict[str, type[Any]] = {
        "vision": VisionPretrainConfig,
        "prompt": PromptPretrainConfig,
        "masks": MaskPretrainConfig,
    }
    cls = next((recipe for stage, recipe in of_stage.items() if stage in file), TrainConfig)
    recipe = load_config(cls, CONFIGS / file)
    assert from_dict(cls, to_dict(recipe)) == recipe


def test_an_unknown_key_is_an_error_that_guesses() -> None:
    with pytest.raises(ConfigError, match=r"'optimizer.learning_rat'.*Did you mean 'learning_rate'"):
        from_dict(TrainConfig, {"data": {"sources": [SOURCE]}, "optimizer": {"learning_rat": 1}})
    with pytest.raises(ConfigError, match=r"'data.sources\[0\].wieght'.*'weight'"):
        from_dict(TrainConfig, {"data": {"sources": [{**SOURCE, "wieght": 1}]}})


@pytest.mark.parametrize(
    ("key", "value", "problem"),
    [
        ("total_steps", "many", "must be of type int"),
        ("total_steps", 0, "at least 1"),
        ("warmup_steps", 99999, "warmup_steps must lie within"),
        ("mixed_precision", "bf8", "no, bf16 or fp16"),
        ("cpu", 1, "must be of type bool"),
    ],
)
def test_a_wrong_value_is_an_error_that_names_it(key: str, value: object, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        from_dict(TrainConfig, {"data": {"sources": [SOURCE]}, "run": {key: value}})


def test_overrides_reach_nested_and_unique_keys() -> None:
    recipe = load_config(
        TrainConfig,
        CONFIGS / "smoke.yaml",
        ["optimizer.learning_rate=1e-5", "resume=never", "run.trackers=[tensorboard]", "model.lora.rank=4"],
    )
    assert recipe.optimizer.learning_rate == 1e-5
    assert recipe.run.resume == "never" and recipe.run.trackers == ["tensorboard"]
    assert recipe.model.lora is not None and recipe.model.lora.rank == 4
    assert recipe.model.processor == "runs/smoke-tokenizer"


@pytest.mark.parametrize("override", ["learning_rte=1", "run.total_step=3", "total_steps", "=3"])
def test_a_misspelt_override_is_an_error(override: str) -> None:
    with pytest.raises(ConfigError):
        load_config(TrainConfig, CONFIGS / "smoke.yaml", [override])


def test_a_missing_recipe_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere.yaml"):
        load_config(TrainConfig, tmp_path / "nowhere.yaml")
