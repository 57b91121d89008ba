"""A new task is one `TaskSpec` and, to be measured, one class: everything else finds it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image
from transformers import pipeline

import pixelllm_hf  # noqa: F401, registers the pipeline
from pixelllm_hf.cli import OK, main
from pixelllm_hf.data import GroundedCollator
from pixelllm_hf.data.scenes import write_scenes
from pixelllm_hf.evaluation import report
from pixelllm_hf.evaluation.runner import GenerationSettings, evaluate
from pixelllm_hf.evaluation.tasks import TASKS
from pixelllm_hf.evaluation.tasks.caption import CaptionTask
from pixelllm_hf.inference import Captioner, Request
from pixelllm_hf.processing.tasks import TASK_SPECS, TaskSpec

PROMPT = "two red "


class ColourTask(CaptionTask):
    name = "colour"


@pytest.fixture
def image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An image to ask about, where there is the new task."""
    spec = TaskSpec(
        "colour", title="Colours", label="Name colours", summary="name the colours of images", default=PROMPT
    )
    monkeypatch.setitem(TASK_SPECS, "colour", spec)
    monkeypatch.setitem(TASKS, "colour", ColourTask())
    Image.new("RGB", (40, 30), "red").save(tmp_path / "a.png")
    return tmp_path / "a.png"


def test_the_command_line_has_it(small_checkpoint: Path, image: Path, tmp_path: Path, capsys):
    assert main(["--help"]) == OK
    assert "name the colours" in capsys.readouterr().out
    out = tmp_path / "out.jsonl"
    words = ["colour", image, "--model", small_checkpoint, "--device", "cpu", "--max-new-tokens", 4, "--json", out]
    assert main(list(map(str, words))) == OK
    assert json.loads(out.read_text())["prompt"].strip() == PROMPT.strip()


def test_annotation_has_it(image: Path, capsys):
    assert main(["annotate", "--help"]) == OK
    assert "colour" in capsys.readouterr().out


def test_the_pipeline_has_it(small_checkpoint: Path, image: Path):
    describe = pipeline("grounded-captioning", model=str(small_checkpoint), device="cpu")
    records = describe(str(image), task="colour", max_new_tokens=4)
    captioner = Captioner.load(str(small_checkpoint), "cpu", "auto", {"max_new_tokens": 4})
    ((answer,),) = captioner([image], Request("colour"))
    assert records[0]["generated_text"] == answer.text


def test_evaluation_and_its_report_have_it(small_checkpoint: Path, image: Path, tmp_path: Path):
    captioner = Captioner.load(str(small_checkpoint), "cpu", "auto", {})
    folder = write_scenes(tmp_path / "scenes", 2, 7, split="test")
    done = evaluate(
        captioner.model,
        captioner.processor,
        TASKS["colour"],
        folder,
        generation=GenerationSettings(batch_size=2, max_new_tokens=4),
    )
    assert done is not None and "CIDEr" in done.result["metrics"]
    assert report.title_of("colour") == "Colours" and "colour" in report.tasks_of_a_card()


def test_the_demo_page_and_training_have_it(small_checkpoint: Path, image: Path):
    page_events = pytest.importorskip("pixelllm_hf.space.page_events", reason="needs gradio")
    assert ("Name colours", "colour") in page_events.task_choices({})
    captioner = Captioner.load(str(small_checkpoint), "cpu", "auto", {})
    assert GroundedCollator.for_processor(captioner.processor).contexts["colour"] == (PROMPT,)


def test_the_api_has_it(small_checkpoint: Path, image: Path):
    gr = pytest.importorskip("gradio", reason="needs gradio")
    from pixelllm_hf.space.endpoints import add_endpoints
    from pixelllm_hf.space.limits import Limits
    from pixelllm_hf.space.service import Service

    service = Service({"small": Captioner.load(str(small_checkpoint), "cpu", "auto", {})}, Limits())
    with gr.Blocks() as blocks:
        add_endpoints(service, image.parent)
    endpoints = {function.api_name: function for function in blocks.fns.values()}
    assert endpoints.keys() == TASK_SPECS.keys()
    (answer,) = endpoints["colour"].fn({"path": str(image)})
    assert answer["prompt"].strip() == PROMPT.strip()


def test_what_trains_with_a_task_is_read_from_its_entry(monkeypatch: pytest.MonkeyPatch):
    """A task of masks, one that finds objects and one that describes images, under other names than ours."""
    from pixelllm_hf.modeling.configuration_pixelllm import PixelLLMConfig
    from pixelllm_hf.training.feature_cache import kept_maps

    config = PixelLLMConfig.for_tests()
    for like, other in (("segment", "outline"), ("dense", "inventory"), ("caption", "colour")):
        monkeypatch.setitem(TASK_SPECS, other, replace(TASK_SPECS[like], name=other))
        batches = [SimpleNamespace(sources={"one": [{"task": task}]}) for task in (like, other)]
        assert kept_maps(config, batches[0]) == kept_maps(config, batches[1])
    assert TASK_SPECS["colour"].describes_images and not TASK_SPECS["outline"].describes_images
