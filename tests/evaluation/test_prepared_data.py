"""Evaluation on prepared folders: scenes, prepared for each task, give the numbers of the scenes themselves."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pixelllm_hf import PixelLLMForGroundedGeneration, PixelLLMProcessor
from pixelllm_hf.data.parquet_shards import prepare_format
from pixelllm_hf.data.prepared_folder import PreparedFolderError
from pixelllm_hf.evaluation import runner
from pixelllm_hf.evaluation.images import EvaluationDataError
from pixelllm_hf.evaluation.row_images import read_referred
from pixelllm_hf.evaluation.runner import GenerationSettings
from pixelllm_hf.evaluation.scene_folder import DataFolder
from pixelllm_hf.evaluation.tasks import TASKS
from pixelllm_hf.evaluation.tasks.task import EvalSettings

# Task -> format, annotations, companion; as somebody would give them to scripts/prepare_dataset.py.
SOURCES = {
    "trace": ("localized_narratives", "localized_narratives.jsonl", None),
    "caption": ("coco_captions", "captions.json", None),
    "refer": ("referring_expressions", "refcoco/refs.json", "refcoco/instances.json"),
    "segment": ("referring_expressions", "refcoco/refs.json", "refcoco/instances.json"),
    "region": ("visual_genome", "visual_genome/region_descriptions.json", "visual_genome/image_data.json"),
    "dense": ("visual_genome", "visual_genome/region_descriptions.json", "visual_genome/image_data.json"),
}


@pytest.fixture(scope="module")
def model_and_processor(small_checkpoint: Path):
    model = PixelLLMForGroundedGeneration.from_pretrained(small_checkpoint).eval()
    return model, PixelLLMProcessor.from_pretrained(small_checkpoint)


@pytest.fixture(scope="module")
def prepared(scene_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """(task, instances) -> the scenes prepared for the task in shards of three, made once."""
    made: dict[tuple[str, bool], Path] = {}

    def prepare(task: str, *, instances: bool = True) -> Path:
        key = task, instances
        if key not in made:
            name, annotations, companion = SOURCES[task]
            made[key] = tmp_path_factory.mktemp("prepared") / task
            prepare_format(
                name,
                scene_folder / annotations,
                scene_folder / "images",
                made[key],
                task=task,
                companion=scene_folder / companion if companion else None,
                instances=scene_folder / "instances.json" if instances else None,
                rows_per_shard=3,
            )
        return made[key]

    return prepare


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def numbers(model_and_processor: Any, task: str, folder: Path) -> dict[str, Any]:
    model, processor = model_and_processor
    evaluation = runner.evaluate(
        model,
        processor,
        TASKS[task],
        DataFolder(folder),
        generation=GenerationSettings(batch_size=5, max_new_tokens=5),
        settings=EvalSettings(resamples=20, meteor="meteor-approx"),
    )
    assert evaluation is not None
    return evaluation.result


@pytest.mark.parametrize("task", list(SOURCES))
def test_prepared_scenes_give_the_numbers_of_the_scenes(
    model_and_processor, scene_folder: Path, prepared: Callable[..., Path], task: str
):
    direct = numbers(model_and_processor, task, scene_folder)
    assert any(estimate["count"] for estimate in direct["metrics"].values())
    assert json.dumps(numbers(model_and_processor, task, prepared(task))) == json.dumps(direct)


@pytest.mark.parametrize(("task", "stored"), [("refer", "segment"), ("region", "dense"), ("dense", "region")])
def test_rows_that_hold_more_than_a_task_needs_serve_it_too(
    prepared: Callable[..., Path], task: str, stored: str, scene_folder: Path
):
    theirs, own = (TASKS[task].read(DataFolder(folder)) for folder in (prepared(stored), scene_folder))
    assert [image.image_id for image in theirs] == [image.image_id for image in own]


def test_without_the_objects_numbers_that_need_them_are_left_out(
    model_and_processor, prepared: Callable[..., Path], tmp_path: Path
):
    bare = tmp_path / "bare"
    shutil.copytree(prepared("segment"), bare)
    (bare / "instances.json").unlink()
    result = numbers(model_and_processor, "refer", bare)
    assert "P@0.5" in result["metrics"] and "P@0.5_alone" not in result["metrics"]
    assert "expressions_with_distractor" not in result
    caption = numbers(model_and_processor, "caption", prepared("caption", instances=False))
    assert "CIDEr" in caption["metrics"] and "object_f1" not in caption["metrics"]
    with pytest.raises(FileNotFoundError, match="--instances"):
        numbers(model_and_processor, "trace", prepared("trace", instances=False))


def test_rows_of_another_task_are_refused_by_name(prepared: Callable[..., Path]):
    with pytest.raises(PreparedFolderError, match="'caption', which do not serve 'trace'"):
        TASKS["trace"].read(DataFolder(prepared("caption")))
    with pytest.raises(PreparedFolderError, match="'refer', which do not serve 'segment'"):
        TASKS["segment"].read(DataFolder(prepared("refer")))
    with pytest.raises(EvaluationDataError, match="holds its images"):
        DataFolder(prepared("refer"), images=Path("images"))


def test_a_prepared_split_is_known_by_its_name(scene_folder: Path, tmp_path: Path):
    name, annotations, companion = SOURCES["refer"]
    out = tmp_path / "rows"
    companion = scene_folder / str(companion)
    prepare_format(name, scene_folder / annotations, scene_folder / "images", out, split="test", companion=companion)
    assert len(read_referred(DataFolder(out, split="test"))) == 8
    with pytest.raises(PreparedFolderError, match="holds the split 'test', not 'testA'"):
        read_referred(DataFolder(out, split="testA"))
