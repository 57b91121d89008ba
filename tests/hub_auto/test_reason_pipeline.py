"""A PixelLM through `pipeline("grounded-captioning")`, and where the package is not installed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from transformers import pipeline

import pixelllm_hf
from pixelllm_hf.inference import Captioner, ModelError, Request

QUESTION = "what can be eaten?"
CODE = """
import importlib.util, json, sys
from transformers import AutoModel, AutoProcessor, pipeline

assert importlib.util.find_spec("pixelllm_hf") is None, "the package can be imported"
folder, image, again = sys.argv[1:]
load = lambda auto: auto.from_pretrained(folder, trust_remote_code=True)
model, processor = load(AutoModel), load(AutoProcessor)
inputs = processor(images=image, text="what can be eaten?", return_tensors="pt")
((answer,),) = processor.post_process_reason(model.generate(**inputs, max_new_tokens=24), inputs)
ask = pipeline("grounded-captioning", model=folder, trust_remote_code=True, device="cpu")
(record,) = ask(image, prompt="what can be eaten?", max_new_tokens=24)
ask.save_pretrained(again)
saved = pipeline("grounded-captioning", model=again, trust_remote_code=True, device="cpu")
print(json.dumps({
    "classes": [type(part).__name__ for part in (model, processor)],
    "module": type(model).__module__.split(".")[0],
    "answer": answer.to_dict(), "record": record,
    "again": saved(image, prompt="what can be eaten?", max_new_tokens=24)[0],
}))
"""


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "noise.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)).save(path)
    return path


def test_a_pixellm_answers_in_the_pipeline_with_its_own_task(small_pixellm: Path, image: Path):
    ask = pipeline("grounded-captioning", model=str(small_pixellm), device="cpu")
    records = ask([str(image)] * 2, prompt=[QUESTION, "a red dog"], max_new_tokens=24, batch_size=2)
    captioner = Captioner.load(str(small_pixellm), "cpu", "auto", {"max_new_tokens": 24})
    ((answer,),) = captioner([image], Request("reason", expressions=(QUESTION,)))
    assert records[0][0]["generated_text"] == answer.text
    assert records[0][0]["targets"] == [target.to_dict() for target in answer.targets] != []
    assert json.loads(json.dumps(records)) == records


def test_the_pipeline_refuses_what_a_model_lacks(small_pixellm: Path, small_checkpoint: Path, image: Path):
    ask = pipeline("grounded-captioning", model=str(small_pixellm), device="cpu")
    with pytest.raises(ValueError, match="no point head.*'caption'"):
        ask(str(image), task="caption")
    with pytest.raises(ValueError, match="cannot be streamed"):
        next(iter(ask.stream(str(image), prompt=QUESTION)))
    describe = pipeline("grounded-captioning", model=str(small_checkpoint), device="cpu")
    with pytest.raises(ValueError, match="no segmentation codebook.*'reason'"):
        describe(str(image), task="reason", prompt=QUESTION)


def test_parts_that_do_not_fit_are_refused_when_a_model_is_loaded(small_pixellm: Path, tmp_path: Path):
    folder = tmp_path / "other"
    shutil.copytree(small_pixellm, folder)
    config = json.loads((folder / "config.json").read_text())
    config["codebook_token_ids"] = config["codebook_token_ids"][::-1]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="tokens of the image and of targets"):
        Captioner.load(str(folder), "cpu", "auto", {})
    (folder / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(ModelError, match="no family of this package"):
        Captioner.load(str(folder), "cpu", "auto", {})


def test_without_the_package_a_pixellm_gives_the_same_answers(
    small_pixellm: Path, image: Path, tmp_path: Path, python_without_package: Path
):
    folder = tmp_path / "exported"
    shutil.copytree(small_pixellm, folder)
    pixelllm_hf.export_code(folder)
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "HF_HOME": str(tmp_path / "cache")}
    command = [str(python_without_package), "-I", "-c", CODE, str(folder), str(image), str(tmp_path / "again")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=1800)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["classes"] == ["PixelLMForReasoningSegmentation", "PixelLMProcessor"]
    assert found["module"] == "transformers_modules"
    captioner = Captioner.load(str(small_pixellm), "cpu", "auto", {"max_new_tokens": 24})
    ((answer,),) = captioner([image], Request("reason", expressions=(QUESTION,)))
    assert found["answer"]["text"] == found["record"]["text"] == found["again"]["text"] == answer.text
    assert found["answer"]["targets"] == [target.to_dict() for target in answer.targets]
