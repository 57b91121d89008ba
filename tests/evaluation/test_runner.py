from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from pixelllm_hf import PixelLLMForGroundedGeneration, PixelLLMProcessor
from pixelllm_hf.data.parquet_shards import prepare_format
from pixelllm_hf.data.scenes import ObjectLibrary, compose_scene
from pixelllm_hf.evaluation import runner
from pixelllm_hf.evaluation.row_images import read_scenes
from pixelllm_hf.evaluation.runner import GenerationSettings
from pixelllm_hf.evaluation.scene_folder import DataFolder, EvaluationDataError
from pixelllm_hf.evaluation.sharing import DistributedShard
from pixelllm_hf.evaluation.tasks import TASKS, task_for
from pixelllm_hf.evaluation.tasks.task import QUICK
from pixelllm_hf.evaluation.tasks.trace import narratives_matching, narratives_point_l1, read_given_narratives

ROOT = Path(__file__).parents[2]
TRACE = TASKS["trace"]


@pytest.fixture(scope="module")
def model_and_processor(small_checkpoint: Path):
    model = PixelLLMForGroundedGeneration.from_pretrained(small_checkpoint).eval()
    return model, PixelLLMProcessor.from_pretrained(small_checkpoint)


def evaluate(model_and_processor, task, folder, **options):
    evaluation = runner.evaluate(*model_and_processor, task, folder, **options)
    assert evaluation is not None
    return evaluation


def test_scenes_are_read_back_with_their_objects(scene_folder: Path):
    data = DataFolder(scene_folder)
    scenes, names = read_scenes(data), data.object_names
    assert names is not None
    composed = compose_scene(123, 2, ObjectLibrary.builtin())
    assert scenes[2].open().size == composed.image.size
    assert scenes[2].names == tuple(obj.name for obj in composed.objects)
    np.testing.assert_array_equal(scenes[2].boxes, [obj.box_xyxy for obj in composed.objects])
    assert len(names.names) == len(ObjectLibrary.builtin())


def test_the_written_captions_themselves_name_all_objects(scene_folder: Path):
    data = DataFolder(scene_folder)
    scenes, names = read_scenes(data), data.object_names
    assert names is not None
    for index, scene in enumerate(scenes):
        for narrative in compose_scene(123, index, ObjectLibrary.builtin()).narratives:
            words = [word.text for word in narrative.words]
            assert {m.name for m in names.mentions(words)} == set(scene.names)


def test_an_evaluation_does_not_depend_on_the_batch_size(model_and_processor, scene_folder: Path):
    one, four = (
        evaluate(model_and_processor, TRACE, scene_folder, generation=GenerationSettings(size, max_new_tokens=8)).result
        for size in (1, 4)
    )
    assert one["scenes"] == 8
    for name, estimate in one["metrics"].items():
        np.testing.assert_allclose(
            [estimate[k] for k in ("value", "count")], [four["metrics"][name][k] for k in ("value", "count")], rtol=1e-5
        )


@pytest.mark.parametrize("name", ["trace", "caption", "region", "refer"])
def test_processes_that_share_a_task_have_the_records_of_one(model_and_processor, scene_folder: Path, name: str):
    task, generation = TASKS[name], GenerationSettings(batch_size=3, max_new_tokens=4)
    model, processor = model_and_processor
    images = task.read(DataFolder(scene_folder))

    def records(share: DistributedShard) -> dict:
        answered = runner.answers_of(model, processor, task, images, generation=generation, share=share)
        return {i: task.record(images[i], answers) for i, answers in answered}

    shared = records(DistributedShard(1, 2)) | records(DistributedShard(0, 2))
    assert len(shared) == len(images)
    assert repr(DistributedShard().gathered(shared)) == repr(list(records(DistributedShard()).values()))


@pytest.mark.parametrize("name", ["caption", "region", "refer"])
def test_the_numbers_of_every_task_are_there_for_a_model_that_knows_nothing(
    model_and_processor, scene_folder: Path, name: str
):
    generation = GenerationSettings(max_new_tokens=4)
    evaluation = evaluate(
        model_and_processor, TASKS[name], scene_folder, generation=generation, settings=QUICK, limit=2
    )
    assert evaluation.result["scenes"] == len(evaluation.answers) == 2
    assert all(np.isfinite(e["value"]) for e in evaluation.result["metrics"].values() if e["count"])
    json.dumps(evaluation.answers)


class PerfectModel:
    """Puts every token where the narrative has it, shifted to the right by a part of the image's width."""

    device = torch.device("cpu")

    def __init__(self, shift: float = 0.0):
        self.shift = shift

    def __call__(self, point_labels: torch.Tensor, **_) -> SimpleNamespace:
        bos = point_labels[:, :1]
        return SimpleNamespace(coordinates=torch.cat([bos, point_labels + torch.tensor([self.shift, 0.0])], dim=1))


@pytest.mark.parametrize("shift", [0.0, 0.01])
def test_the_teacher_forced_error_is_that_of_the_places(model_and_processor, scene_folder: Path, shift: float):
    narratives = read_given_narratives(PerfectModel(shift), model_and_processor[1], DataFolder(scene_folder))
    assert narratives is not None
    estimate = narratives_point_l1(narratives)
    assert estimate.count == 8, "every image counts once"
    # the mean of |dx| and |dy|; a shifted corner may come nearer to the other corner of a thin box
    assert 0.9 * shift / 2 <= estimate.value <= shift / 2 + 1e-6
    # one row a word: the boxes are shifted too, in two of four coordinates, and lose what leaves the image
    for matching in narratives_matching(narratives).values():
        assert 0.5 * shift / 2 <= matching.value <= shift / 2 + 1e-6 and matching.count >= 8


def test_validation_looks_at_every_task_and_leaves_the_model_in_the_mode_it_was_in(model_and_processor):
    model, processor = model_and_processor
    heads = {name for name in ("segment", "dense") if TASKS[name].unsupported_reason(model) is None}
    model.train()
    try:
        numbers = runner.validate(model, processor, scenes=2)
        assert model.training
    finally:
        model.eval()
    wanted = {"object_f1", "point_in_box", "refer_p50", "region_exact", "region_name", "caption_object_f1"}
    assert wanted <= set(numbers) and 0 <= numbers["object_f1"] <= 1
    assert ("segment_ciou" in numbers) == ("segment" in heads) and ("dense_map" in numbers) == ("dense" in heads)
    assert set(runner.validate(model, processor, ["refer"], scenes=2)) == set(TASKS["refer"].logged_metrics.values())
    with pytest.raises(runner.CannotDoError, match="but not on refre"):
        runner.validate(model, processor, ["refre", "refer"], scenes=2)


def test_a_folder_without_scenes_is_named(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"instances\.json"):
        read_scenes(DataFolder(tmp_path))


def test_a_folder_that_is_not_there_is_said_to_be_missing(tmp_path: Path):
    with pytest.raises(EvaluationDataError, match="gone is not there"):
        task_for("phrases", DataFolder(tmp_path / "gone"))


def test_numbers_that_would_choose_other_images_than_the_first_ones_are_refused():
    """`--limit -1` left the last image out, `--scenes 0` composed the default number."""
    for nonsense in (["--limit", "-1"], ["--scenes", "0"]):
        command = [sys.executable, str(ROOT / "scripts/evaluate.py"), "--task", "trace", *nonsense]
        done = subprocess.run(command, capture_output=True, text=True, timeout=600)
        assert done.returncode == 2 and "a whole number of at least 1" in done.stderr


def test_the_same_evaluation_gives_the_same_numbers(model_and_processor, scene_folder: Path):
    first, second = (
        evaluate(model_and_processor, TRACE, scene_folder, generation=GenerationSettings(max_new_tokens=6)).result
        for _ in range(2)
    )
    assert json.dumps(first) == json.dumps(second)


def command(small_checkpoint: Path, *arguments: str) -> list[str]:
    start = [str(ROOT / "scripts/evaluate.py"), "--model", str(small_checkpoint), "--device", "cpu"]
    return [*start, "--max-new-tokens", "6", *arguments]


def test_the_script_prints_a_table_and_writes_the_numbers(small_checkpoint: Path, tmp_path: Path):
    arguments = ["--scenes", "3", "--seed", "5", "--json", str(tmp_path / "trace.json")]
    done = subprocess.run(
        [sys.executable, *command(small_checkpoint, *arguments)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert "(`object_f1`)" in done.stdout
    report = json.loads((tmp_path / "trace.json").read_text())
    assert report["data"] == {"seed": 5} and "--json" not in report["command"]
    assert report["scenes"] == 3 and report["weights_sha256"] == runner.weights_digest(small_checkpoint)


def test_the_script_takes_a_prepared_folder_and_says_what_its_data_is(
    small_checkpoint: Path, scene_folder: Path, tmp_path: Path
):
    regions = scene_folder / "visual_genome"
    prepare_format(
        "visual_genome",
        regions / "region_descriptions.json",
        scene_folder / "images",
        tmp_path / "rows",
        companion=regions / "image_data.json",
        instances=scene_folder / "instances.json",
    )
    (tmp_path / "names.txt").write_text("dog\ncat\n" + "\n".join(ObjectLibrary.builtin().names[:60]))
    arguments = ["--task", "region", "--data", str(tmp_path / "rows"), "--json", str(tmp_path / "region.json")]
    arguments += ["--trained-names", str(tmp_path / "names.txt"), "--title", "Prepared", "--description", "A few."]
    environment = os.environ | {"HF_DATASETS_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(
        [sys.executable, *command(small_checkpoint, *arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "region.json").read_text())
    names = report["data"].pop("names")
    assert report["data"] == {"folder": "rows", "title": "Prepared", "description": "A few."}
    assert names["source"] == "names.txt" and len(names["counted"]) >= 60 and names["not_counted"]
    assert report["command"].endswith("--task region --data rows --trained-names names.txt")
    assert "Not counted: " in done.stdout and str(tmp_path) not in done.stdout


@pytest.mark.slow
def test_two_processes_write_the_very_file_of_one(small_checkpoint: Path, tmp_path: Path):
    arguments = ["--task", "trace", "--scenes", "7", "--seed", "5", "--batch-size", "2"]
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    for name, start in (("one", [sys.executable]), ("two", launch)):
        outputs = ["--json", str(tmp_path / name), "--captions", str(tmp_path / f"{name}.jsonl")]
        done = subprocess.run(
            [*start, *command(small_checkpoint, *arguments, *outputs)],
            capture_output=True,
            text=True,
            timeout=600,
            env=os.environ | {"ACCELERATE_USE_CPU": "true"},
        )
        assert done.returncode == 0, done.stderr
    for suffix in ("", ".jsonl"):
        assert (tmp_path / f"one{suffix}").read_bytes() == (tmp_path / f"two{suffix}").read_bytes()
