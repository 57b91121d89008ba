"""What `--dtype auto` means on a CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from pixelllm_hf import PixelLLMForGroundedGeneration, embedded_checkpoint
from pixelllm_hf.inference import Captioner, ModelError, captioner, device


@pytest.fixture(scope="module")
def stored_in_half(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("half") / "model"
    model = PixelLLMForGroundedGeneration.from_pretrained(embedded_checkpoint("tiny"), dtype=torch.bfloat16)
    model.save_pretrained(folder)
    for file in embedded_checkpoint("tiny").iterdir():  # the processor's files
        if file.suffix in (".json", ".jinja") and not (folder / file.name).exists():
            (folder / file.name).write_bytes(file.read_bytes())
    return folder


@pytest.mark.parametrize(("faster", "expected"), [(True, torch.bfloat16), (False, torch.float32)])
def test_weights_in_half_precision_are_computed_in_it_where_that_is_faster(
    stored_in_half: Path, monkeypatch: pytest.MonkeyPatch, faster: bool, expected: torch.dtype
):
    monkeypatch.setattr(captioner, "cpu_is_faster_in", lambda dtype: faster and dtype == "bfloat16")
    loaded = Captioner.load(str(stored_in_half), "cpu", "auto", {})
    assert loaded.model.language_model.lm_head.weight.dtype == expected
    assert {p.dtype for p in loaded.model.point_head.parameters()} == {torch.float32}


def test_weights_in_float32_stay_so(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(captioner, "cpu_is_faster_in", lambda dtype: dtype != "float32")
    loaded = Captioner.load("tiny", "cpu", "auto", {})
    assert loaded.model.language_model.lm_head.weight.dtype == torch.float32


def test_quantized_weights_stay_as_they_are(stored_in_half: Path, monkeypatch: pytest.MonkeyPatch):
    """transformers refuses to widen them."""
    load = PixelLLMForGroundedGeneration.from_pretrained

    def quantized(*args: Any, **options: Any) -> Any:
        model, info = load(*args, **options)
        model.hf_quantizer = object()
        return model, info

    monkeypatch.setattr(captioner, "cpu_is_faster_in", lambda dtype: False)
    monkeypatch.setattr(PixelLLMForGroundedGeneration, "from_pretrained", quantized)
    loaded = Captioner.load(str(stored_in_half), "cpu", "auto", {})
    assert loaded.model.language_model.lm_head.weight.dtype == torch.bfloat16


def test_a_quantized_model_names_the_extra_that_it_needs(monkeypatch: pytest.MonkeyPatch):
    def lacks(*args: Any, **options: Any) -> Any:
        raise ModuleNotFoundError("No module named 'torchao'", name="torchao")

    monkeypatch.setattr(PixelLLMForGroundedGeneration, "from_pretrained", lacks)
    with pytest.raises(ModelError, match=r"needs torchao.*\[int8\]"):
        Captioner.load("tiny", "cpu", "auto", {})


@pytest.mark.parametrize(("seconds", "faster"), [((3.0, 1.0), True), ((1.2, 1.0), False), ((1.0, 8.0), False)])
def test_half_precision_is_chosen_by_its_time_and_asked_once(
    monkeypatch: pytest.MonkeyPatch, seconds: tuple[float, float], faster: bool
):
    asked = []

    def timed(dtype: str) -> float:
        asked.append(dtype)
        return seconds[dtype == "bfloat16"]

    device.cpu_is_faster_in.cache_clear()
    monkeypatch.setattr(device, "matmul_seconds", timed)
    assert [device.cpu_is_faster_in("bfloat16") for _ in range(3)] == [faster] * 3
    assert asked == ["float32", "bfloat16"]
    device.cpu_is_faster_in.cache_clear()


def test_each_kind_of_half_precision_is_timed_by_itself(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(device, "matmul_seconds", {"float32": 3.0, "bfloat16": 1.0, "float16": 20.0}.get)
    device.cpu_is_faster_in.cache_clear()
    faster = {dtype: device.cpu_is_faster_in(dtype) for dtype in ("float32", "bfloat16", "float16")}
    device.cpu_is_faster_in.cache_clear()
    assert faster == {"float32": False, "bfloat16": True, "float16": False}


def test_a_matrix_product_takes_time():
    assert device.matmul_seconds("float32") > 0
