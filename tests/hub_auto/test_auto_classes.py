from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import pixelllm_hf


def test_the_image_text_class_gives_our_model(small_checkpoint: Path):
    from transformers import AutoModelForImageTextToText

    model = AutoModelForImageTextToText.from_pretrained(small_checkpoint)
    assert type(model) is pixelllm_hf.PixelLLMForGroundedGeneration


ORDERS = {
    "pipelines first": "from transformers import pipeline; import pixelllm_hf",
    "package first": "import pixelllm_hf; from transformers import pipeline",
    "our pipeline first": "from pixelllm_hf import GroundedCaptioningPipeline; from transformers import pipeline",
    "our model first": "from pixelllm_hf import PixelLLMForGroundedGeneration; from transformers import pipeline",
}


@pytest.mark.parametrize("order", ORDERS)
def test_the_task_is_registered_in_whatever_order_things_are_imported(order: str):
    code = f"""
{ORDERS[order]}
from transformers.pipelines import check_task
name, task, _ = check_task("grounded-captioning")
assert task["impl"] is pixelllm_hf.GroundedCaptioningPipeline if "pixelllm_hf" in globals() else task["impl"]
print(task["impl"].__module__, task["default"]["model"][0])
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr[-3000:]
    module, default = result.stdout.split()
    assert module == "pixelllm_hf.processing.pipeline_grounded_captioning"
    assert Path(default) == pixelllm_hf.default_checkpoint()


@pytest.mark.parametrize(("family", "name"), [("pixelllm", "PixelLLM"), ("pixellm", "PixelLM")])
def test_configs_of_all_parts_are_known_to_auto_config(family: str, name: str):
    """Whichever file they are in: a part may be saved by itself."""
    code = f"""
import pixelllm_hf
from transformers import CONFIG_MAPPING, PreTrainedConfig
from pixelllm_hf.modeling.configuration_{family} import {name}Config as Whole
def parts(config):
    yield config.model_type
    for value in vars(config).values():
        for part in value if isinstance(value, (list, tuple)) else [value]:
            if isinstance(part, PreTrainedConfig):
                yield from parts(part)
whole = Whole.photo() if hasattr(Whole, "photo") else Whole.for_tests() if hasattr(Whole, "for_tests") else Whole()
missing = [kind for kind in parts(whole) if kind not in CONFIG_MAPPING]
assert not missing, missing
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)


def test_transformers_image_text_pipeline_does_not_call_the_model_unsupported(small_checkpoint: Path):
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

    assert MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES["pixelllm"] == "PixelLLMForGroundedGeneration"
