from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import pixelllm_hf


def python(code: str, *arguments: str) -> str:
    """What a fresh interpreter prints."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", code, *arguments]
    result = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_importing_the_package_brings_neither_torch_nor_our_rooms():
    code = "import sys, pixelllm_hf; print(sorted(m for m in sys.modules if m == 'torch' or 'pixelllm_hf.' in m))"
    assert python(code) == "['pixelllm_hf.families', 'pixelllm_hf.registration']"


def test_importing_the_package_adds_little_to_importing_transformers():
    code = (
        "import time, transformers; start = time.process_time(); import pixelllm_hf; print(time.process_time() - start)"
    )
    assert min(float(python(code)) for _ in range(2)) < 0.3


AUTO_CLASSES = """
import json, sys
if sys.argv[2] == "transformers first":
    from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoProcessor
    import pixelllm_hf
elif sys.argv[2] == "package first":
    import pixelllm_hf
elif sys.argv[2] == "configuration first":
    from pixelllm_hf import PixelLLMConfig
elif sys.argv[2] == "model first":
    from pixelllm_hf.modeling.modeling_pixelllm import PixelLLMForGroundedGeneration
elif sys.argv[2] == "processor first":
    from pixelllm_hf import PixelLLMProcessor
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoProcessor
autos = AutoConfig, AutoModel, AutoImageProcessor, AutoProcessor
print(json.dumps([f"{c.__module__}.{c.__name__}" for c in (type(a.from_pretrained(sys.argv[1])) for a in autos)]))
"""


@pytest.mark.parametrize(
    "order",
    ["package first", "transformers first", "configuration first", "model first", "processor first"],
)
def test_auto_classes_give_ours_in_whatever_order_things_are_imported(small_checkpoint: Path, order: str):
    assert json.loads(python(AUTO_CLASSES, str(small_checkpoint), order)) == [
        "pixelllm_hf.modeling.configuration_pixelllm.PixelLLMConfig",
        "pixelllm_hf.modeling.modeling_pixelllm.PixelLLMForGroundedGeneration",
        "pixelllm_hf.processing.image_processing_pixelllm.PixelLLMImageProcessor",
        "pixelllm_hf.processing.processing_pixelllm.PixelLLMProcessor",
    ]


def test_a_part_of_the_config_loads_by_its_own_type(small_checkpoint: Path):
    from transformers import AutoConfig

    config = AutoConfig.for_model("pixelllm_vision", image_size=64)
    assert type(config).__name__ == "PixelLLMVisionConfig"


@pytest.mark.parametrize("name", [n for n in pixelllm_hf.__all__ if callable(getattr(pixelllm_hf, n))])
def test_every_public_name_can_be_had(name: str):
    assert getattr(pixelllm_hf, name).__name__ == name
    assert name in dir(pixelllm_hf)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="PixelLM"):
        _ = pixelllm_hf.PixelLM


def test_a_missing_embedded_checkpoint_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(pixelllm_hf, "__file__", str(tmp_path / "__init__.py"))
    with pytest.raises(FileNotFoundError, match="Install the package again"):
        pixelllm_hf.default_checkpoint()


def test_every_embedded_checkpoint_can_be_had_by_its_name_and_no_other_name_is_taken_for_one():
    for name in pixelllm_hf.EMBEDDED_CHECKPOINTS:
        assert pixelllm_hf.embedded_checkpoint(name).name == name
    assert pixelllm_hf.default_checkpoint().name == pixelllm_hf.EMBEDDED_CHECKPOINTS[0]
    with pytest.raises(ValueError, match="There are: "):
        pixelllm_hf.embedded_checkpoint("../tiny")
