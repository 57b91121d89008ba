"""The code beside the weights, in an environment without the package."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import pixelllm_hf
from pixelllm_hf import CodeExportError, PixelLLMForGroundedGeneration, PixelLLMProcessor

WITHOUT_PACKAGE = """
import importlib.util, json, sys

assert importlib.util.find_spec("pixelllm_hf") is None, "the package can be imported"
folder, image, again = sys.argv[1:]
"""

AUTO_CLASSES = """
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoModelForImageTextToText, AutoProcessor

try:
    AutoModel.from_pretrained(folder, trust_remote_code=False)
    refused = False
except ValueError as error:
    refused = "trust_remote_code" in str(error) or "model type" in str(error)
load = lambda auto: auto.from_pretrained(folder, trust_remote_code=True)
model, processor = load(AutoModel), load(AutoProcessor)
classes = {auto.__name__: type(load(auto)) for auto in (AutoConfig, AutoImageProcessor, AutoModelForImageTextToText)}
classes |= {"AutoModel": type(model), "AutoProcessor": type(processor)}
inputs = processor(images=image, boxes=[[4, 6, 40, 30]], return_tensors="pt")
output = model.generate(**inputs, max_new_tokens=8)
result = processor.post_process_grounded_generation(output, inputs)[0][0]
model.save_pretrained(again)
processor.save_pretrained(again)
AutoModel.from_pretrained(again, trust_remote_code=True)
print(json.dumps({
    "refused": refused,
    "classes": {auto: [cls.__module__.split(".")[0], cls.__name__] for auto, cls in classes.items()},
    "sequences": output.sequences.tolist(),
    "coordinates": output.coordinates.nan_to_num(-1).tolist(),
    "record": result.to_dict(),
}))
"""

EVERY_PART = """
from transformers import AutoModel, AutoProcessor

processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
model = AutoModel.from_pretrained(folder, trust_remote_code=True)
inputs = processor(images=image, task="dense")
print(json.dumps([result.to_dict() for result in processor.post_process_dense(model.generate(**inputs), inputs)[0]]))
"""

PIPELINE = """
from transformers import pipeline

by_name = pipeline("grounded-captioning", model=folder, trust_remote_code=True, device="cpu")
by_folder = pipeline(model=folder, trust_remote_code=True, device="cpu")
by_folder.save_pretrained(again)
saved = pipeline("grounded-captioning", model=again, trust_remote_code=True, device="cpu")
answers = [pipe(image, max_new_tokens=8) for pipe in (by_name, by_folder, saved)]
print(json.dumps({"module": type(by_name).__module__.split(".")[0], "answers": answers}))
"""


@pytest.fixture(scope="module")
def exported(small_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "model"
    shutil.copytree(small_checkpoint, folder)
    pixelllm_hf.export_code(folder)
    return folder


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("images") / "noise.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)).save(path)
    return path


Run = Callable[[str, Path], Any]


@pytest.fixture
def without_package(python_without_package: Path, image: Path, tmp_path: Path) -> Run:
    """`without_package(code, folder)`: what the code prints in a process of its own, as JSON."""

    def run(code: str, folder: Path) -> dict[str, Any]:
        environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "HF_HOME": str(tmp_path / "cache")}
        arguments = [str(folder), str(image), str(tmp_path / "again")]
        command = [str(python_without_package), "-I", "-c", WITHOUT_PACKAGE + code, *arguments]
        result = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=1800)
        assert result.returncode == 0, result.stderr[-3000:]
        return json.loads(result.stdout.splitlines()[-1])

    return run


def test_without_the_package_auto_classes_give_the_same_answers(exported: Path, image: Path, without_package: Run):
    found = without_package(AUTO_CLASSES, exported)
    assert found["refused"]
    assert found["classes"] == {
        "AutoConfig": ["transformers_modules", "PixelLLMConfig"],
        "AutoImageProcessor": ["transformers_modules", "PixelLLMImageProcessor"],
        "AutoModel": ["transformers_modules", "PixelLLMForGroundedGeneration"],
        "AutoModelForImageTextToText": ["transformers_modules", "PixelLLMForGroundedGeneration"],
        "AutoProcessor": ["transformers_modules", "PixelLLMProcessor"],
    }
    processor = PixelLLMProcessor.from_pretrained(exported)
    inputs = processor(images=str(image), boxes=[[4, 6, 40, 30]], return_tensors="pt")
    output = PixelLLMForGroundedGeneration.from_pretrained(exported).generate(**inputs, max_new_tokens=8)
    assert found["sequences"] == output.sequences.tolist()
    torch.testing.assert_close(torch.tensor(found["coordinates"]), output.coordinates.nan_to_num(-1))
    mine = processor.post_process_grounded_generation(output, inputs)[0][0]
    assert found["record"]["text"] == mine.text
    assert [word["start"] for word in found["record"]["words"]] == [word.start for word in mine.words]


def test_without_the_package_the_embedded_model_finds_the_same_objects(without_package: Run, tmp_path: Path):
    """With its own kinds of towers and heads, whichever of processor and model is loaded first."""
    folder = tmp_path / "photo"
    shutil.copytree(pixelllm_hf.embedded_checkpoint("photo"), folder)
    pixelllm_hf.export_code(folder)
    image = Path(__file__).parents[2] / "demo" / "examples" / "skier.jpg"
    found = without_package(f"image = {str(image)!r}" + EVERY_PART, folder)
    processor = PixelLLMProcessor.from_pretrained(folder)
    inputs = processor(images=image, task="dense")
    output = PixelLLMForGroundedGeneration.from_pretrained(folder).generate(**inputs)
    mine = processor.post_process_dense(output, inputs)[0]
    assert len(mine) > 1 and [record["text"] for record in found] == [result.text for result in mine]
    for record, result in zip(found, mine, strict=True):
        assert record["box"] == pytest.approx(result.box, abs=1e-2)


def test_without_the_package_the_pipeline_gives_the_same_answers_also_when_saved_again(
    exported: Path, image: Path, without_package: Run
):
    from transformers import pipeline

    found = without_package(PIPELINE, exported)
    assert found["module"] == "transformers_modules"
    mine = pipeline("grounded-captioning", model=str(exported), trust_remote_code=True, device="cpu")
    expected = mine(str(image), max_new_tokens=8)
    for answer in found["answers"]:
        assert answer[0]["generated_text"] == expected[0]["generated_text"]
        assert [w["point"] for w in answer[0]["words"]] == [pytest.approx(w["point"]) for w in expected[0]["words"]]


def test_every_module_that_the_code_imports_lies_beside_it(exported: Path):
    files = {path.stem: path.read_text("utf-8") for path in exported.glob("*.py")}
    assert {"modeling_pixelllm", "processing_pixelllm", "pipeline_grounded_captioning"} <= set(files)
    imported = {name for text in files.values() for name in re.findall(r"^\s*from \.(\S+) import", text, re.M)}
    assert imported <= set(files)
    lines = [line for text in files.values() for line in re.findall(r"^\s*(?:from|import) .*", text, re.M)]
    assert not [line for line in lines if "pixelllm_hf" in line]


def test_nothing_of_this_machine_is_in_the_exported_settings(exported: Path):
    for name in ("config.json", "processor_config.json"):
        assert not re.search(r'"/[^"]*"', (exported / name).read_text("utf-8"))


def test_exporting_again_changes_nothing(exported: Path):
    before = {path.name: path.read_bytes() for path in exported.iterdir()}
    written = pixelllm_hf.export_code(exported)
    assert {path.name: path.read_bytes() for path in exported.iterdir()} == before
    assert {path.name for path in written} == {name for name in before if name.endswith(".py")}


def test_a_folder_without_a_processor_is_refused_and_left_as_it_is(small_checkpoint: Path, tmp_path: Path):
    shutil.copy(small_checkpoint / "config.json", tmp_path)
    with pytest.raises(CodeExportError, match="processor_config.json does not exist. Call save_pretrained"):
        pixelllm_hf.export_code(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]
    assert "auto_map" not in json.loads((tmp_path / "config.json").read_text("utf-8"))


SAVED_WITH_CODE = """
import sys
from pixelllm_hf import PixelLLMConfig, PixelLLMForGroundedGeneration, PixelLLMImageProcessor, PixelLLMProcessor
for cls, auto in ((PixelLLMConfig, "AutoConfig"), (PixelLLMForGroundedGeneration, "AutoModel"),
                  (PixelLLMProcessor, "AutoProcessor"), (PixelLLMImageProcessor, "AutoImageProcessor")):
    cls.register_for_auto_class(auto)
PixelLLMForGroundedGeneration.from_pretrained(sys.argv[1]).save_pretrained(sys.argv[2])
PixelLLMProcessor.from_pretrained(sys.argv[1]).save_pretrained(sys.argv[2])
"""


def test_classes_registered_for_auto_classes_save_their_code_themselves(
    small_checkpoint: Path, exported: Path, without_package: Run, tmp_path: Path
):
    saved = tmp_path / "saved"
    command = [sys.executable, "-c", SAVED_WITH_CODE, str(small_checkpoint), str(saved)]
    subprocess.run(command, check=True, capture_output=True, timeout=1800)
    mine = {path.name for path in exported.glob("*.py")}
    assert mine - {path.name for path in saved.glob("*.py")} == {"pipeline_grounded_captioning.py"}
    for path in saved.glob("*.py"):
        assert path.read_bytes() == (exported / path.name).read_bytes()
    code = AUTO_CLASSES.replace("AutoModelForImageTextToText", "AutoModel")
    assert without_package(code, saved)["classes"]["AutoModel"][0] == "transformers_modules"


def test_with_the_package_the_code_is_neither_needed_nor_named_when_saved_again(exported: Path, tmp_path: Path):
    from transformers import pipeline

    pipe = pipeline("grounded-captioning", model=str(exported), device="cpu")
    assert type(pipe) is pixelllm_hf.GroundedCaptioningPipeline
    pipe.model.save_pretrained(tmp_path)
    assert not {"auto_map", "custom_pipelines"} & set(json.loads((tmp_path / "config.json").read_text("utf-8")))
