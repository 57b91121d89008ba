"""Recipes: strict keys, typed values, overrides."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pixelllm_hf import EMBEDDED_CHECKPOINTS, embedded_checkpoint
from pixelllm_hf.training.config import ConfigError, RunConfig, from_dict, load_config, to_dict
from pixelllm_hf.training.recipe import TrainConfig

CONFIGS = Path(__file__).parents[2] / "configs"
PROVENANCE = [embedded_checkpoint(name) / "provenance" for name in EMBEDDED_CHECKPOINTS]
RECIPES = sorted([*CONFIGS.rglob("*.yaml"), *(file for folder in PROVENANCE for file in folder.glob("*.yaml"))])
SOURCE = {"format": "coco_captions", "annotations": "a.json", "images": "i"}


@pytest.mark.parametrize("file", RECIPES, ids=lambda file: file.name)
def test_every_committed_recipe_is_valid(file: Path) -> None:
    recipe = load_config(TrainConfig, file)
    assert from_dict(TrainConfig, to_dict(recipe)) == recipe


# The official configs: images of a step, steps, warm-up, rate, decay, layer decay, tokens of text and context, weights.
OFFICIAL: dict[str, tuple[Any, ...]] = {
    "trace": (256, 10_000, 250, 5e-5, 0, 1, 128, 8, [2, 1]),
    "refer": (64, 120_000, 1000, 5e-5, 0, 1, 40, 40, [1, 5, 1]),
    "segment": (64, 60_000, 500, 5e-5, 0, 1, 40, 40, [1]),
    "dense": (64, 40_000, 1000, 1e-4, 0.05, 0.8, 40, 8, [1]),
    "joint": (128, 240_000, 2000, 1e-4, 0.05, 0.8, 128, 32, [3, 1, 1, 5, 1, 5, 5]),
    "joint_segment": (128, 30_000, 250, 1e-4, 0, 1, 128, 32, [1]),
}


@pytest.mark.parametrize("stage", OFFICIAL)
def test_the_recipes_of_the_paper_have_its_numbers(stage: str) -> None:
    recipe = load_config(TrainConfig, CONFIGS / "pixelllm" / f"{stage}.yaml")
    data, optimizer, run = recipe.data, recipe.optimizer, recipe.run
    assert OFFICIAL[stage] == (
        8 * data.batch_size * run.gradient_accumulation, run.total_steps, run.warmup_steps,
        optimizer.learning_rate, optimizer.weight_decay, optimizer.layer_decay,
        data.max_text_tokens, data.max_context_tokens, [source.weight for source in data.sources],
    )  # fmt: skip
    assert optimizer.max_grad_norm is None and optimizer.betas == (0.9, 0.999)
    assert optimizer.lr_multipliers == ({"mask_head.adapter": 10} if stage == "segment" else {})
    assert (recipe.model.lora is None) == ("segment" in stage)


def test_a_recipe_begins_from_another(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(
        "model: {init: tiny, lora: {rank: 4}, freeze: [a]}\ndata: {batch_size: 8, max_text_tokens: 9}\n"
    )
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "middle.yaml").write_text("extends: ../base.yaml\ndata: {batch_size: 4}\n")
    (tmp_path / "mine.yaml").write_text("extends: below/middle.yaml\nmodel: {freeze: [b, c], lora: null}\n")
    recipe = load_config(TrainConfig, tmp_path / "mine.yaml", ["data.max_text_tokens=7"])
    assert (recipe.model.init, recipe.model.freeze, recipe.model.lora) == ("tiny", ["b", "c"], None)
    assert (recipe.data.batch_size, recipe.data.max_text_tokens) == (4, 7)


@pytest.mark.parametrize("base", ["mine.yaml", "nowhere.yaml", "[a]", "''", "."])
def test_a_beginning_that_leads_nowhere_is_refused(base: str, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(f"extends: {base}")
    with pytest.raises(ConfigError, match="mine.yaml|cannot be read"):
        load_config(TrainConfig, tmp_path / "mine.yaml")


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
        ("save_every", 0, "run.save_every must be at least 1"),
        ("eval_every", -1, "run.eval_every must be at least 0"),
        ("num_threads", -1, "run.num_threads must be at least 1"),
        ("workers", 10**12, "run.workers must be at most 1024"),
        ("seed", -1, "run.seed must be at least 0"),
        ("max_minutes", float("nan"), "run.max_minutes must be a finite number"),
        ("output_dir", "runs/\0", "NUL"),
    ],
)
def test_a_wrong_value_is_an_error_that_names_it(key: str, value: object, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        from_dict(TrainConfig, {"data": {"sources": [SOURCE]}, "run": {key: value}})


@pytest.mark.parametrize(
    "override",
    [
        "learning_rate=.inf", "learning_rate=-1", "learning_rate=.nan", "weight_decay=-0.1", "ema_decay=5",
        "ema_decay=1", "eps=0", "betas=[0.9, 1.0]", "layer_decay=0", "max_grad_norm=0", "batch_size=-3", "batch_size=0",
        "max_text_tokens=0", "model.lora.rank=0", "model.lora.dropout=1.5", "model.lora.targets=[x]",
        "model.export_dtype=float8", "data.sources.0.name=x", "run.seed.low=1", "auxiliary.tokens_weight=-1",
        "auxiliary.cells.sub_cells=100000", "optimizer.lr_multipliers={mask: -1}",
    ],
)  # fmt: skip
def test_an_impossible_number_or_choice_is_refused(override: str) -> None:
    with pytest.raises(ConfigError):
        load_config(TrainConfig, CONFIGS / "smoke.yaml", [override])


@pytest.mark.parametrize(
    "change",
    [
        {"weight": -1}, {"weight": 0}, {"flip": 2}, {"scale": [0, 1]}, {"scale": [2, 1]}, {"limit": 0},
        {"max_prompts": 0}, {"align": "word"}, {"object_points": "some"}, {"on_error": "ignore"},
    ],
)  # fmt: skip
def test_a_source_that_cannot_be_drawn_from_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        from_dict(TrainConfig, {"data": {"sources": [{**SOURCE, **change}]}})


def test_a_recipe_made_in_python_is_checked_like_one_that_is_read() -> None:
    with pytest.raises(ConfigError, match="save_every must be at least 1"):
        RunConfig(save_every=0)


ALIASES = "a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 30)
)


@pytest.mark.parametrize(
    "content",
    [
        b"\xff\xfea", b"[" * 3000,
        b"a: !!timestamp x", b"a: " + b"9" * 10000, b"[1]", b"false",
        b"a: !!python/tuple []",
        ALIASES.encode(), b"data: &a {sources: *a}", b"x: 1\n" * 400_000,
    ],
)  # fmt: skip
def test_a_damaged_recipe_is_an_error_that_names_the_file(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_bytes(content)
    with pytest.raises(ConfigError, match="recipe.yaml"):
        load_config(TrainConfig, tmp_path / "recipe.yaml")


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


def test_a_variable_stands_in_every_text_of_the_recipe_and_of_those_it_extends(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(
        "variables: {data: null, runs: runs}\n"
        "data: {sources: [{format: coco_captions, annotations: '${data}/a.json', images: '${data}/i'}]}\n"
    )
    file = tmp_path / "mine.yaml"
    file.write_text("extends: base.yaml\nvariables: {runs: mine}\nrun: {output_dir: '${runs}/x'}\n")
    recipe = load_config(TrainConfig, file, ["run.trackers=['${runs}']"], {"data": "/some where"})
    (source,) = recipe.data.sources
    assert (source.annotations, source.images) == ("/some where/a.json", "/some where/i")
    assert (recipe.run.output_dir, recipe.run.trackers) == ("mine/x", ["mine"])
    assert load_config(TrainConfig, file, (), {"data": "d", "runs": "r"}).run.output_dir == "r/x"


@pytest.mark.parametrize(
    ("recipe", "given", "said"),
    [
        ("variables: {data: null}\nrun: {output_dir: '${data}'}", {}, "--set data=VALUE"),
        ("variables: {data: d}\nrun: {output_dir: '${date}'}", {}, "date"),
        ("run: {output_dir: x}", {"data": "d"}, "no variable 'data'"),
        ("variables: {data: d}", {"runs": "d"}, "no variable 'runs'"),
        ("variables: [data]", {}, "variables"),
        ("variables: {data: 7}", {}, "variables"),
    ],
)
def test_a_variable_without_a_value_or_a_name_is_an_error(
    tmp_path: Path, recipe: str, given: dict[str, str], said: str
) -> None:
    (tmp_path / "mine.yaml").write_text(recipe)
    with pytest.raises(ConfigError, match=said):
        load_config(TrainConfig, tmp_path / "mine.yaml", (), given)
