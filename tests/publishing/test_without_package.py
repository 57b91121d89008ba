"""A model of the Hub in an environment that has never heard of this package: everything comes over HTTP."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pixelllm_hf import PixelLLMForGroundedGeneration, PixelLLMProcessor
from pixelllm_hf.publishing import publish_model

IMAGE = Image.radial_gradient("L").convert("RGB").resize((60, 40))
BOXES = [[4.0, 6.0, 40.0, 30.0]]
LOAD = """
import importlib.util, json, sys

assert importlib.util.find_spec("pixelllm_hf") is None, "the package can be imported"
source, options, image, again = sys.argv[1], json.loads(sys.argv[2]), sys.argv[3], sys.argv[4]

from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoModelForImageTextToText, AutoProcessor

def load(auto):
    return auto.from_pretrained(source, trust_remote_code=True, **options)
"""
ANSWER = """
model, processor = load(AutoModel), load(AutoProcessor)
inputs = processor(images=image, boxes=[[4.0, 6.0, 40.0, 30.0]])
output = model.generate(**inputs, max_new_tokens=8)
model.save_pretrained(again)
processor.save_pretrained(again)
print(json.dumps({
    "classes": [type(load(auto)).__name__ for auto in (AutoConfig, AutoImageProcessor, AutoModelForImageTextToText)],
    "sequences": output.sequences.tolist(),
    "coordinates": output.coordinates.nan_to_num(-1).tolist(),
    "words": [w.to_dict() for w in processor.post_process_grounded_generation(output, inputs)[0][0].words],
}))
"""
PIPELINES = """
from transformers import pipeline

places = pipeline("grounded-captioning", model=source, trust_remote_code=True, device="cpu", **options)
plain = pipeline("image-text-to-text", model=source, trust_remote_code=True, device="cpu", **options)
print(json.dumps({
    "places": places(image, max_new_tokens=8)[0]["generated_text"],
    "plain": plain(image, text="a photo of", return_full_text=False, max_new_tokens=8)[0]["generated_text"],
}))
"""
Run = Callable[..., Any]


@pytest.fixture
def elsewhere(python_without_package: Path, hub: Any, tmp_path: Path) -> Run:
    """`elsewhere(code, source, **options of loading)`: what the code prints there, or the end of its error."""
    IMAGE.save(tmp_path / "image.png")

    def run(code: str, source: Any, *, token: str | None = None, offline: bool = False, **options: Any) -> Any:
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "PYTHON"))}
        environment |= {
            "HOME": str(tmp_path), "HF_HOME": str(tmp_path / "home"), "HF_ENDPOINT": hub.endpoint,
            "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_XET": "1", "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": str(int(offline)), **({"HF_TOKEN": token} if token else {}),
        }  # fmt: skip
        arguments = [str(source), json.dumps(options), str(tmp_path / "image.png"), str(tmp_path / "again")]
        command = [str(python_without_package), "-I", "-c", LOAD + code, *arguments]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1800)
        return json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else done.stderr[-2000:]

    return run


def answers_of_the_package(source: Any) -> dict[str, Any]:
    processor = PixelLLMProcessor.from_pretrained(source)
    model = PixelLLMForGroundedGeneration.from_pretrained(source)
    inputs = processor(images=IMAGE, boxes=BOXES)
    output = model.generate(**inputs, max_new_tokens=8)
    words = processor.post_process_grounded_generation(output, inputs)[0][0].words
    return {
        "sequences": output.sequences.tolist(),
        "coordinates": output.coordinates.nan_to_num(-1).tolist(),
        "words": json.loads(json.dumps([word.to_dict() for word in words])),
    }


def test_the_auto_classes_answer_as_the_package_does_and_what_they_save_again_too(
    checkpoint: Path, hub: Any, elsewhere: Run, tmp_path: Path
):
    done = publish_model(checkpoint, "org/small", examples=[])
    expected = answers_of_the_package(checkpoint)
    found = elsewhere(ANSWER, "org/small", revision=done.commit)
    assert isinstance(found, dict), found
    assert found.pop("classes") == ["PixelLLMConfig", "PixelLLMImageProcessor", "PixelLLMForGroundedGeneration"]
    assert found == expected
    before = len(hub.requests)
    (tmp_path / "again").rename(tmp_path / "saved")
    again = elsewhere(ANSWER.replace(", AutoModelForImageTextToText)", ")"), tmp_path / "saved", offline=True)
    assert isinstance(again, dict), again
    assert again.pop("classes") == ["PixelLLMConfig", "PixelLLMImageProcessor"]
    assert again == expected and len(hub.requests) == before


def test_a_model_and_a_processor_that_were_pushed_one_after_the_other_load_as_well(
    checkpoint: Path, hub: Any, elsewhere: Run
):
    PixelLLMForGroundedGeneration.from_pretrained(checkpoint).push_to_hub("org/small")
    PixelLLMProcessor.from_pretrained(checkpoint).push_to_hub("org/small")
    found = elsewhere(ANSWER, "org/small")
    assert isinstance(found, dict), found
    assert found.pop("classes")[-1] == "PixelLLMForGroundedGeneration"
    assert found == answers_of_the_package(checkpoint)


def test_the_pipelines_answer_as_the_package_does(checkpoint: Path, hub: Any, elsewhere: Run):
    from transformers import pipeline

    publish_model(checkpoint, "org/small", examples=[])
    found = elsewhere(PIPELINES, "org/small")
    assert isinstance(found, dict), found
    expected = pipeline("grounded-captioning", model=str(checkpoint), device="cpu")(IMAGE, max_new_tokens=8)
    assert found == {"places": expected[0]["generated_text"], "plain": expected[0]["generated_text"]}


def test_a_private_model_opens_to_a_token_alone(checkpoint: Path, hub: Any, elsewhere: Run):
    publish_model(checkpoint, "org/small", examples=[], private=True)
    code = "print(json.dumps(type(load(AutoConfig)).__name__))"
    assert "org/small" in (refused := elsewhere(code, "org/small")) and "token" in refused
    assert elsewhere(code, "org/small", token=hub.token) == "PixelLLMConfig"


def test_code_of_the_hub_does_not_run_unless_it_is_trusted(checkpoint: Path, hub: Any, elsewhere: Run):
    publish_model(checkpoint, "org/small", examples=[])
    code = "AutoModel.from_pretrained(source, trust_remote_code=False)"
    assert "trust_remote_code=True" in elsewhere(code, "org/small")
    assert not [r.path for r in hub.requests if r.path.endswith(".py")]
