"""What `--dry_run` says is what training would do."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from pixelllm_hf.training.build_model import build_model
from pixelllm_hf.training.config import ConfigError, load_config
from pixelllm_hf.training.dry_run import describe, meta_model
from pixelllm_hf.training.memory_estimate import Sizes, activation_bytes, state_bytes
from pixelllm_hf.training.parameter_groups import freeze
from pixelllm_hf.training.recipe import TrainConfig

ROOT = Path(__file__).parents[2]


@pytest.fixture
def recipe(squares: SimpleNamespace, tmp_path: Path) -> TrainConfig:
    narratives: dict[str, Any] = {
        "name": "narratives", "format": "localized_narratives", "annotations": str(squares.narratives),
        "images": str(squares.images), "weight": 2,
    }  # fmt: skip
    refs = {
        "name": "refs", "format": "referring_expressions", "annotations": str(squares.refs),
        "instances": str(squares.instances), "images": str(squares.images), "max_prompts": 2,
    }  # fmt: skip
    content = {
        "model": {"init": "for_tests", "freeze": ["prompt_encoder", "vision_towers.sam"]},
        "data": {"batch_size": 4, "cache_dir": str(tmp_path / "cache"), "sources": [narratives, refs]},
        "optimizer": {"learning_rate": 1e-3, "weight_decay": 0.1},
        "run": {"output_dir": str(tmp_path / "run"), "total_steps": 90, "warmup_steps": 10},
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(content))
    return load_config(TrainConfig, tmp_path / "recipe.yaml")


def test_it_counts_what_trains_and_what_does_not(recipe: TrainConfig):
    model = build_model("for_tests")
    freeze(model, recipe.model.freeze)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    frozen = sum(p.numel() for p in model.parameters() if not p.requires_grad)
    told = describe(recipe)
    assert f"{'all':<28}{trained:>16,}{frozen:>16,}" in told
    sam = sum(p.numel() for p in model.vision_towers.get_submodule("sam").parameters())
    assert f"{'vision_towers.sam':<28}{0:>16,}{sam:>16,}" in told
    groups = re.findall(r"lr 0\.001 decay (\S+) +([\d,]+) +([\d,]+)", told)
    assert {decay for decay, *_ in groups} == {"0", "0.1"}
    assert sum(int(count.replace(",", "")) for *_, count in groups) == trained


def test_it_tells_the_schedule_and_how_often_each_image_is_seen(recipe: TrainConfig):
    told = describe(recipe)
    assert "step        10: 0.001" in told and "step        90: 0" in told
    # 12 images; two of three batches of 4, at 90 steps, on 1, 8 and 64 devices
    row = re.search(r"narratives +12 +66\.7% +(.+)", told)
    assert row and row[1] == "20.00, 160.00, 1280.00"
    assert re.search(r" 64  256 = 64 x 4 x 1 accumulated +23,040", told)


def test_adapters_are_counted_and_nothing_is_written(recipe: TrainConfig, tmp_path: Path):
    recipe = load_config(TrainConfig, tmp_path / "recipe.yaml", ["model.lora={rank: 2}"])
    before = set(tmp_path.rglob("*"))
    names = [name for name, p in meta_model(recipe).named_parameters() if p.requires_grad and "language_model" in name]
    assert names and all(".lora_" in name or ".visual_projection." in name for name in names)
    assert set(tmp_path.rglob("*")) == before


def test_states_are_counted_as_each_engine_keeps_them():
    sizes = Sizes(total=1000, trained=100, largest_block=50, outside_blocks=30)
    one = {e: state_bytes(sizes, e, 1, half=False, averaged=False) for e in ("ddp", "fsdp2", "zero3")}
    assert one == {"ddp": 4000 + 800 + 800, "fsdp2": 4000 + 400 + 800, "zero3": 4000 + 400 + 800}
    assert state_bytes(sizes, "ddp", 8, half=False, averaged=False) == one["ddp"]  # replicated
    assert state_bytes(sizes, "fsdp2", 8, half=False, averaged=False) == 5200 // 8 + 130 * 4
    assert state_bytes(sizes, "zero3", 8, half=True, averaged=True) == (2000 + 200 + 400 + 1200) // 8 + 130 * 2


def test_frozen_towers_keep_no_activations(recipe: TrainConfig):
    model = meta_model(recipe)
    given: dict[str, Any] = dict(images=2, prompts=1, text=8, context=8, half=False)
    whole = activation_bytes(model, **given)
    freeze(model, ["vision_towers"])
    without = activation_bytes(model, **given)
    assert 0 < without < whole
    freeze(model, [name for name, _ in model.named_children() if any(True for _ in getattr(model, name).parameters())])
    assert activation_bytes(model, **given) == 0


def test_checkpointed_layers_keep_what_they_read_and_one_of_them_the_rest(recipe: TrainConfig, tmp_path: Path):
    given: dict[str, Any] = dict(images=64, prompts=2, text=64, context=64, half=False)
    model = meta_model(recipe)
    assert activation_bytes(model, **given, checkpointing=True) < 0.8 * activation_bytes(model, **given)
    told = describe(load_config(TrainConfig, tmp_path / "recipe.yaml", ["run.gradient_checkpointing=true"]))
    assert "longest texts, checkpointing)" in told and "longest texts, no checkpointing)" in describe(recipe)


def test_a_backbone_of_transformers_is_counted_as_the_transformer_that_it_is(recipe: TrainConfig, tmp_path: Path):
    def kept(depth: int) -> int:
        dino = {"model_type": "dinov2", "hidden_size": 24, "num_attention_heads": 2, "num_hidden_layers": depth}
        towers = {"towers": [dino | {"patch_size": 16, "image_size": 64}], "fused_maps": None, "mask_map": None}
        words = [f"model.overrides.vision_config={json.dumps(towers)}", "model.freeze=[]"]
        model = meta_model(load_config(TrainConfig, tmp_path / "recipe.yaml", words))
        return activation_bytes(model, images=1, prompts=1, text=1, context=1, half=False)

    assert kept(4) - kept(2) == 2 * 17 * (9 * 24 + 2 * 4 * 24) * 4


def test_mistakes_are_those_of_training(recipe: TrainConfig, tmp_path: Path):
    for word, said in (
        ("model.freeze=[nothing]", "no such part"),
        ("model.init=nowhere", "nowhere"),
        ("objective=towers", "objective language"),
        ("model.overrides={mask_head_config: {hidden_size: 24}}", "make no model.*one width"),
        ("optimizer.lr_multipliers={mask_adapter: 10}", "no trainable parameter"),
    ):
        with pytest.raises(ConfigError, match=said):
            describe(load_config(TrainConfig, tmp_path / "recipe.yaml", [word]))


def test_what_a_recipe_starts_from_may_be_made_later_where_it_says_the_sizes(recipe: TrainConfig, tmp_path: Path):
    later = ["model.init=runs/made/later", "model.weights=[runs/none.safetensors]"]
    told = describe(load_config(TrainConfig, tmp_path / "recipe.yaml", [*later, "model.sizes=for_tests"]))
    missing, _, rest = told.partition("\n\n")
    assert re.findall("not here yet: ([^,]+),", missing) == ["runs/made/later", "runs/none.safetensors"]
    assert rest == describe(recipe)
    with pytest.raises(ConfigError, match="runs/made/later"):
        build_model("runs/made/later")


@pytest.mark.parametrize(
    "path",
    [path for path in sorted((ROOT / "configs").rglob("*.yaml")) if path.stem != "base"],
    ids=lambda path: f"{path.parent.name}-{path.stem}",
)
def test_every_recipe_is_described_before_anything_it_needs_is_here(path: Path):
    told = describe(load_config(TrainConfig, path, ["cache_dir=null"]))
    trained = re.search(r"^all +([\d,]+) +[\d,]+$", told, re.MULTILINE)
    assert trained and int(trained[1].replace(",", "")) > 0 and re.search(r"^ +64( +\d+\.\d){3}$", told, re.MULTILINE)
    if path.parent.name == "pixelllm":
        assert told.startswith("not here yet: ") and "has the sizes of t5_xl" in told
    if path.stem == "masks":
        assert re.search(r"^language_model +0 ", told, re.MULTILINE)
    if (
        path.parent.name == "pixelllm" and path.stem == "segment"
    ):  # the adapter learns at ten times the rate, as in the paper
        rates = re.findall(r"lr (\S+) decay 0 +[\d,]+ +[\d,]+ +(\S+)", told)
        assert ("0.0005", "mask_head.adapter") in [(rate, name[:17]) for rate, name in rates]


def test_the_command_describes_an_official_stage_without_its_data():
    words = ["scripts/train.py", "--config", "configs/pixelllm/trace.yaml", "--dry_run"]
    done = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    # the sizes of the paper: LoRA of rank 32 on q and v of 72 attentions, the visual projection; ViT-H frozen
    trained = 18_874_368 + 1024 * 2048 + 3 * 2048
    assert re.search(rf"language_model +{trained:,} +2,849,757,184", done.stdout)
    assert re.search(r"vision_towers\.sam +0 +637,026,048", done.stdout)
    assert "localized_narratives                       ?" in done.stdout
