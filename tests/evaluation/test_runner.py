from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from pixelllm_hf import PixelLLMForGroundedGeneration, PixelLLMProcessor
from pixelllm_hf.data.scenes import ObjectLibrary, compose_scene
from pixelllm_hf.evaluation import runner
from pixelllm_hf.evaluation.scene_folder import composed_folder, read_scenes

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def model_and_processor(small_checkpoint: Path):
    model = PixelLLMForGroundedGeneration.from_pretrained(small_checkpoint).eval()
    return model, PixelLLMProcessor.from_pretrained(small_checkpoint)


@pytest.fixture(scope="module")
def folder():
    with composed_folder(6, 123) as path:
        yield path


def test_scenes_are_read_back_with_their_objects(folder: Path):
    scenes, names = read_scenes(folder)
    composed = compose_scene(123, 2, ObjectLibrary.builtin())
    assert scenes[2].image.size == composed.image.size
    assert scenes[2].names == tuple(obj.name for obj in composed.objects)
    np.testing.assert_array_equal(scenes[2].boxes, [obj.box_xyxy for obj in composed.objects])
    assert len(names.names) == len(ObjectLibrary.builtin())


def test_the_written_captions_themselves_name_all_objects(folder: Path):
    scenes, names = read_scenes(folder)
    for index, scene in enumerate(scenes):
        for narrative in compose_scene(123, index, ObjectLibrary.builtin()).narratives:
            words = [word.text for word in narrative.words]
            assert {m.name for m in names.mentions(words)} == set(scene.names)


def test_an_evaluation_does_not_depend_on_the_batch_size(model_and_processor, folder: Path):
    model, processor = model_and_processor
    one, four = (runner.evaluate_trace(model, processor, folder, batch_size=size, max_new_tokens=8) for size in (1, 4))
    assert one["scenes"] == 6
    for name, estimate in one["metrics"].items():
        np.testing.assert_allclose(
            [estimate[k] for k in ("value", "count")], [four["metrics"][name][k] for k in ("value", "count")], rtol=1e-5
        )


class PerfectModel:
    """Puts every token where the narrative has it, shifted to the right by a part of the picture's width."""

    device = torch.device("cpu")

    def __init__(self, shift: float = 0.0):
        self.shift = shift

    def __call__(self, point_labels: torch.Tensor, **_) -> SimpleNamespace:
        bos = point_labels[:, :1]
        return SimpleNamespace(coordinates=torch.cat([bos, point_labels + torch.tensor([self.shift, 0.0])], dim=1))


@pytest.mark.parametrize("shift", [0.0, 0.01])
def test_the_teacher_forced_error_is_that_of_the_places(model_and_processor, folder: Path, shift: float):
    estimate = runner.teacher_forced_point_l1(PerfectModel(shift), model_and_processor[1], folder)
    assert estimate is not None and estimate.count == 6, "every picture counts once"
    # the mean of |dx| and |dy|; a shifted corner may come nearer to the other corner of a thin box
    assert 0.9 * shift / 2 <= estimate.value <= shift / 2 + 1e-6


def test_validation_leaves_the_model_in_the_mode_it_was_in(model_and_processor, monkeypatch: pytest.MonkeyPatch):
    model, processor = model_and_processor
    monkeypatch.setattr(runner, "VALIDATION_SCENES", 2)
    runner._validation_scenes.cache_clear()
    model.train()
    try:
        assert 0 <= runner.validate(model, processor)["object_f1"] <= 1
        assert model.training
    finally:
        model.eval()
        runner._validation_scenes.cache_clear()


def test_a_folder_without_scenes_is_named(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"instances\.json"):
        read_scenes(tmp_path)


def test_the_same_evaluation_gives_the_same_numbers(model_and_processor, folder: Path):
    model, processor = model_and_processor
    first, second = (runner.evaluate_trace(model, processor, folder, max_new_tokens=6) for _ in range(2))
    assert json.dumps(first) == json.dumps(second)


def test_the_script_prints_a_table_and_writes_the_numbers(small_checkpoint: Path, tmp_path: Path):
    command = [sys.executable, str(ROOT / "scripts/evaluate.py"), "--model", str(small_checkpoint), "--device", "cpu"]
    command += ["--scenes", "3", "--seed", "5", "--max-new-tokens", "6", "--json", str(tmp_path / "trace.json")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "(`object_f1`)" in done.stdout
    report = json.loads((tmp_path / "trace.json").read_text())
    assert report["data"] == {"seed": 5} and "--json" not in report["command"]
    assert report["scenes"] == 3 and report["weights_sha256"] == runner.weights_digest(small_checkpoint)
