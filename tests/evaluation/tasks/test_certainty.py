"""How sure locations are: read by a small model from a small folder like Flickr30k Entities, and calibrated."""

from __future__ import annotations

import json
import runpy
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pixelllm_hf import PixelLLMForGroundedGeneration, PixelLLMProcessor
from pixelllm_hf.evaluation.calibration import as_calibrated, fitted_settings, save_settings
from pixelllm_hf.evaluation.report import curve_tables
from pixelllm_hf.evaluation.report_layout import problem_of
from pixelllm_hf.evaluation.runner import CannotDoError, GenerationSettings, answers_of, evaluate
from pixelllm_hf.evaluation.scene_folder import DataFolder
from pixelllm_hf.evaluation.tasks import task_for
from pixelllm_hf.evaluation.tasks.certainty import certainties
from pixelllm_hf.evaluation.tasks.task import EvalSettings
from pixelllm_hf.processing.grounded_results import GroundedCaption, GroundedWord

REPOSITORY = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def flickr(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("flickr")
    for name in ("Sentences", "Annotations", "images"):
        (root / name).mkdir()
    (root / "Sentences" / "1.txt").write_text(
        "[/EN#1/people A man] throws [/EN#2/other a ball] in [/EN#3/scene a park] .\n"
        "[/EN#1/people The man] is happy .\n"
    )
    boxes = "".join(
        f"<object><name>{i}</name><bndbox><xmin>{x}</xmin><ymin>1</ymin><xmax>{x + 19}</xmax><ymax>20</ymax></bndbox>"
        "</object>"
        for i, x in ((1, 1), (2, 21))
    )
    size = "<size><width>40</width><height>20</height></size>"
    (root / "Annotations" / "1.xml").write_text(f"<annotation>{size}{boxes}</annotation>")
    Image.new("RGB", (40, 20), "navy").save(root / "images" / "1.png")
    (root / "val.txt").write_text("1\n")
    return root


@pytest.fixture
def unsure(small_checkpoint: Path, tmp_path: Path) -> Path:
    """The small checkpoint with an untrained head that says how sure it is."""
    folder = tmp_path / "unsure"
    shutil.copytree(small_checkpoint, folder)
    config = json.loads((folder / "config.json").read_text())
    config["point_head_config"] |= {"predict_scale": True, "predict_visual": True}
    (folder / "config.json").write_text(json.dumps(config))
    torch.manual_seed(0)
    model = PixelLLMForGroundedGeneration.from_pretrained(folder)
    with torch.no_grad():
        model.point_head.visual.weight.mul_(0.1)  # probabilities that are not all 0 and 1
    model.save_pretrained(folder)
    return folder


def test_words_are_compared_with_their_phrases_and_unknown_ones_left_out(flickr: Path):
    task = task_for("certainty", DataFolder(flickr, split="val"))
    (asked,) = task.read(DataFolder(flickr, split="val"))

    def word(text: str, start: int, visual: float, x: float = 0.0) -> GroundedWord:
        box = (x, 0.0, x + 10, 20.0)
        return GroundedWord(text, start, start + len(text), (x + 5, 10.0), box, 0.5, (4.0, 2.0, 4.0, 2.0), visual)

    answers = []
    for caption in asked.captions:
        words, at = [], 0
        for text in caption.text.rstrip(".").split():
            start = caption.text.index(text, at)
            at = start + len(text)
            words.append(word(text, start, 0.25 if text in ("throws", "in", "is", "happy") else 0.75))
        answers.append(GroundedCaption(caption.text, tuple(words), (40, 20)))
    (image,) = certainties([task.record(asked, answers)])
    assert image.probs.tolist() == [0.75, 0.75, 0.25, 0.75, 0.75, 0.25, 0.75, 0.75, 0.25, 0.25]  # not of "a park"
    assert image.placed.tolist() == [True, True, False, True, True, False, True, True, False, False]
    assert image.errors[0] == pytest.approx([0.0, 0.0, 0.25, 0.0]) and image.errors[2] == pytest.approx(
        [0.5, 0, 0.75, 0]
    )
    assert image.spreads == pytest.approx(np.full((6, 4), 0.1))


def test_a_model_is_measured_and_calibrated(flickr: Path, unsure: Path):
    model = PixelLLMForGroundedGeneration.from_pretrained(unsure).eval()
    processor, data = PixelLLMProcessor.from_pretrained(unsure), DataFolder(flickr, split="val")
    task = task_for("certainty", data)
    result = evaluate(model, processor, task, data, settings=EvalSettings(resamples=10)).result  # type: ignore[union-attr]
    assert result["located_words"] == 6 and result["words_with_place"] == 6 and result["words_without_place"] == 4
    assert result["metrics"]["visual_ECE"]["count"] == 10 and set(result["curves"]) == {"spread", "visual"}
    whole = {"task": "certainty", "data": {"seed": 1}, "decoding": {}, "command": "x"} | result
    assert problem_of(json.loads(json.dumps(whole))) is None
    assert curve_tables(whole).startswith("| spread | error | count |")

    images, generation = task.read(data), GenerationSettings(batch_size=1)
    measured = certainties(
        [task.record(images[i], a) for i, a in answers_of(model, processor, task, images, generation=generation)]
    )
    try:
        settings = fitted_settings(model.config.point_head_config, measured)
    except ValueError as error:  # an untrained head may be right the wrong way round
        assert "has not learnt that yet" in str(error)
        model.config.point_head_config.predict_visual = False
        settings = fitted_settings(model.config.point_head_config, measured)
    expected = as_calibrated(model.config.point_head_config, measured, settings)
    save_settings(unsure, settings)
    again = PixelLLMForGroundedGeneration.from_pretrained(unsure).eval()
    found = [task.record(images[i], a) for i, a in answers_of(again, processor, task, images, generation=generation)]
    for words, wanted in zip(certainties(found), expected, strict=True):
        np.testing.assert_allclose(words.spreads, wanted.spreads, rtol=1e-3)
        np.testing.assert_allclose(words.probs, wanted.probs, atol=1e-3)
    settings_kept = json.loads((unsure / "config.json").read_text())["point_head_config"]
    assert settings_kept["scale_factor"] == settings["scale_factor"] and settings_kept["hidden_size"] == 24


def test_a_model_that_does_not_say_how_sure_it_is_is_refused(flickr: Path, small_checkpoint: Path):
    model, data = PixelLLMForGroundedGeneration.from_pretrained(small_checkpoint), DataFolder(flickr, split="val")
    with pytest.raises(CannotDoError, match="predicts neither scales nor what is visual"):
        evaluate(model, PixelLLMProcessor.from_pretrained(small_checkpoint), task_for("certainty", data), data)


@pytest.mark.parametrize(
    "curves",
    [[], {"a": []}, {"a": [1]}, {"a": [{"x": "1"}]}, {"a": [{"x": 1}, {"y": 1}]}, {"a": [{}]}, {"a": {"x": 1}}],
)
def test_curves_of_another_shape_are_told(curves: Any):
    report = {"task": "a", "scenes": 1, "metrics": {}, "data": {"seed": 1}, "decoding": {}, "command": "x"}
    assert problem_of(report) is None
    assert "curves" in str(problem_of(report | {"curves": curves}))


def test_the_page_of_results_draws_what_lies_beside_the_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    hook = runpy.run_path(str(REPOSITORY / "docs" / "hooks" / "certainty_curves.py"))
    fill = hook["on_page_markdown"]
    page = f"before {hook['SLOT']} after"
    monkeypatch.setitem(fill.__globals__, "CHECKPOINTS", tmp_path)
    assert "no curve to show" in fill(page) and fill("nothing") == "nothing"
    (tmp_path / "photo").mkdir()
    curves = {"spread": [{"spread": 0.1, "error": 0.2, "count": 5}, {"spread": 0.3, "error": 0.3, "count": 20}]}
    (tmp_path / "photo" / hook["REPORT"]).write_text(json.dumps({"command": "python x", "curves": curves}))
    drawn = fill(page)
    assert drawn.count("<svg") == 1 and drawn.count("<circle") == 2 and "photo, printed by `python x`" in drawn
    assert "<!--" not in drawn and hook["SLOT"] in (REPOSITORY / "docs" / "results.md").read_text()


def test_the_script_prints_what_calibration_changes_and_saves_it(flickr: Path, unsure: Path, monkeypatch, capsys):
    model = PixelLLMForGroundedGeneration.from_pretrained(unsure)
    model.config.point_head_config.predict_visual = False
    model.point_head.visual = None
    model.save_pretrained(unsure)
    arguments = ["calibrate.py", "--model", str(unsure), "--data", str(flickr), "--split", "val", "--device", "cpu"]
    monkeypatch.setattr(sys, "argv", [*arguments, "--save"])
    runpy.run_path(str(REPOSITORY / "scripts" / "calibrate.py"), run_name="__main__")
    printed = capsys.readouterr().out
    assert "| `error_per_spread`" in printed.replace("(`", "| `") and "scale_factor: " in printed
    saved = json.loads((unsure / "config.json").read_text())["point_head_config"]["scale_factor"]
    assert saved != 1.0 and f"scale_factor: {saved:.4f}" in printed
