"""Weights in eight bits against weights as they are: size, time and accuracy of the same answers."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pixelllm_hf.evaluation.bootstrap import Estimate
from pixelllm_hf.evaluation.runner import GenerationSettings, evaluate
from pixelllm_hf.evaluation.scene_folder import DataFolder
from pixelllm_hf.evaluation.tasks import task_for
from pixelllm_hf.extras import require
from pixelllm_hf.families import family_of_folder


@dataclass(frozen=True)
class FormatRow:
    """One format of the weights: bytes that they take in memory, seconds of an image (the whole evaluation's mean),
    and the task's metrics."""

    name: str
    bytes: int
    seconds: float
    metrics: Mapping[str, Estimate]


def compare(folder: Path, task: str, data: DataFolder, *, limit: int | None = None) -> Iterator[FormatRow]:
    """The task's metrics on the same images by the weights as they are and by the same weights in eight bits."""
    for name, model in (("float32", loaded(folder)), ("int8", loaded(folder, int8=True))):
        asked = task_for(task, data)
        processor = family_of_folder(folder).processor_class.from_pretrained(folder)
        began = time.perf_counter()
        found = evaluate(model, processor, asked, data, generation=GenerationSettings(batch_size=8), limit=limit)
        seconds = time.perf_counter() - began
        assert found is not None  # one process
        metrics = {metric: Estimate(**values) for metric, values in found.result["metrics"].items()}
        yield FormatRow(name, weight_bytes(model), seconds / found.result["scenes"], metrics)


def loaded(folder: Path, *, int8: bool = False) -> Any:
    """The model in float32, or with its linear layers' weights in eight bits and a scale for each output (torchao's
    weight-only int8); what computes locations stays in float32."""
    options: dict[str, Any] = {}
    if int8:
        require("torchao", what="int8")
        logging.getLogger("torchao").setLevel(logging.ERROR)  # of kernels for other devices
        from torchao.quantization import Int8WeightOnlyConfig
        from transformers import TorchAoConfig

        options["quantization_config"] = TorchAoConfig(Int8WeightOnlyConfig())
    return family_of_folder(folder).model_class.from_pretrained(folder, dtype=torch.float32, **options).eval()


def weight_bytes(model: torch.nn.Module) -> int:
    """Bytes of all parameters and buffers, each counted once."""
    tensors = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    return sum(_bytes(tensor) for tensor in tensors.values())


def _bytes(tensor: Tensor) -> int:
    if not hasattr(tensor, "__tensor_flatten__"):
        return tensor.numel() * tensor.element_size()
    return sum(_bytes(getattr(tensor, name)) for name in tensor.__tensor_flatten__()[0])


__all__ = ["FormatRow", "compare", "loaded", "weight_bytes"]
