"""Recipes of any content: settings within their ranges that can be written down again, or `ConfigError`."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import yaml

from pixelllm_hf.training.config import ConfigError, from_dict, load_config, to_dict
from pixelllm_hf.training.recipe import TrainConfig

RECIPE: dict[str, Any] = {
    "data": {
        "sources": [
            {"format": "coco_captions", "annotations": "a.json", "images": "i", "weight": 2, "scale": [0.75, 1.25]},
            {"format": "localized_narratives", "annotations": ["a.jsonl"], "images": "i", "name": "trace", "flip": 0.5},
        ],
        "batch_size": 8,
    },
    "model": {"init": "tiny", "lora": {"rank": 4, "targets": ["q", "v"]}, "generation": {"max_new_tokens": 64}},
    "optimizer": {"learning_rate": 1e-4, "betas": [0.9, 0.99], "lr_multipliers": {"mask": 2}, "ema_decay": 0.99},
    "run": {"output_dir": "runs/x", "total_steps": 100, "warmup_steps": 10, "eval_every": 10, "num_threads": 1},
    "auxiliary": {"instances": "i.json", "cells_weight": 0.5, "tokens": {"rows": 4, "columns": 4}},
    "evaluate": "module:function",
    "evaluate_options": {"tasks": ["trace"]},
}


def test_damaged_recipes_are_refused_or_whole(fuzz: Any, fuzz_inputs: int, tmp_path: Path) -> None:
    text = yaml.safe_dump(RECIPE).encode()
    assert from_dict(TrainConfig, RECIPE).run.total_steps == 100

    def make(chance: random.Random) -> bytes:
        if chance.random() < 0.3:
            return fuzz.damaged_bytes(text, chance)
        return fuzz.as_json(fuzz.damaged(RECIPE, chance))  # JSON is YAML

    def attempt(content: bytes) -> None:
        (tmp_path / "recipe.yaml").write_bytes(content)
        recipe = load_config(TrainConfig, tmp_path / "recipe.yaml", ["run.seed=1"])
        fuzz.must(0 < recipe.data.batch_size < 10_000, "batch_size")
        fuzz.must(0 <= recipe.optimizer.learning_rate < float("inf"), "learning_rate")
        fuzz.must(recipe.run.save_every > 0 and recipe.run.eval_every >= 0, "intervals")
        fuzz.must(from_dict(TrainConfig, to_dict(recipe)) == recipe, "it changes when it is written and read")

    fuzz.run(attempt, make, fuzz_inputs, typed=[ConfigError], megabytes=256).check()


def test_overrides_of_any_content_are_refused_or_whole(fuzz: Any, fuzz_inputs: int, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    keys = ["run.seed", "total_steps", "optimizer.betas", "data.sources", "data.sources.0.name", "model.lora.rank"]
    keys += [
        "model.lora",
        "model",
        "auxiliary.tokens.rows",
        "evaluate_options.a.b",
        "",
        ".",
        "run.",
        "run..seed",
        "a" * 900,
    ]

    def make(chance: random.Random) -> str:
        try:
            value = json.dumps(fuzz.damaged(chance.choice([1, [1], {"a": 1}, "x", None]), chance))
        except (ValueError, RecursionError):
            value = "[" * 4000
        return chance.choice(keys) + chance.choice(["=", "=", "=", "", "=="]) + value

    def attempt(word: str) -> None:
        recipe = load_config(TrainConfig, tmp_path / "recipe.yaml", [word])
        fuzz.must(recipe.data.sources, "no sources")

    fuzz.run(attempt, make, fuzz_inputs, typed=[ConfigError], megabytes=256).check()
