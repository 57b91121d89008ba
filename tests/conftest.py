"""A checkpoint folder of a small model with random weights, for tests that go through files."""

from __future__ import annotations

import os
import sys
import venv
from pathlib import Path

import pytest

# The tests' tensors are too small to share between threads. Set before torch is imported, and for subprocesses too.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def small_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Model, processor and tokenizer of a few thousand weights; it writes some words that mean nothing."""
    import torch

    from pixelllm_hf import PixelLLMConfig, PixelLLMForGroundedGeneration, PixelLLMImageProcessor, PixelLLMProcessor
    from pixelllm_hf.data import train_tokenizer
    from pixelllm_hf.processing.task_prompts import TASK_PROMPTS

    folder = tmp_path_factory.mktemp("small") / "checkpoint"
    prompts = [f"{prompt.prefix} {prompt.default or ''}" for prompt in TASK_PROMPTS.values()]
    tokenizer = train_tokenizer(["a dog and two red cats on the left", *prompts], max_pieces=99)
    torch.manual_seed(3)
    model = PixelLLMForGroundedGeneration(PixelLLMConfig.for_tests())
    with torch.no_grad():
        for name, weight in model.named_parameters():  # large enough that different pictures give different words
            if weight.ndim > 1 and "shared" not in name:
                weight.mul_(3)
        head = model.language_model.lm_head.weight
        head.mul_(4)
        head[len(tokenizer) :] = 0
    model.save_pretrained(folder)
    side = model.config.image_size
    PixelLLMProcessor(PixelLLMImageProcessor(size={"height": side, "width": side}), tokenizer).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def python_without_package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a virtual environment that has all that this one has, except this package.

    Run it with -I, so that nothing but the environment says what can be imported.
    """
    folder = tmp_path_factory.mktemp("without_package") / "venv"
    venv.create(folder, with_pip=False, symlinks=True)
    modules = next(folder.glob("lib/python*/site-packages"))
    for place in map(Path, sys.path):
        if place.name in ("site-packages", "dist-packages"):
            for entry in place.iterdir():
                # also the files through which an editable installation is found
                if "pixelllm" not in entry.name.lower() and not (modules / entry.name).exists():
                    (modules / entry.name).symlink_to(entry)
    return folder / "bin" / "python"
