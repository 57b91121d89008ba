from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pixelllm_hf.cli import main


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder with three images and other things."""
    folder = tmp_path / "images"
    folder.mkdir()
    noise = np.random.default_rng(0)
    for name, size in (("a.png", (40, 60)), ("b.jpg", (50, 30)), ("c.png", (64, 64))):
        Image.fromarray(noise.integers(0, 256, (*size, 3), dtype=np.uint8)).save(folder / name)
    (folder / "notes.txt").write_text("not an image")
    return folder


@pytest.fixture
def run(small_checkpoint: Path):
    """Runs a command of `pixelllm` with the small model."""

    def run_command(command: str, *arguments: object) -> int:
        written = () if command in ("refer", "segment") else ("--max-new-tokens", "6")
        settings = ["--model", str(small_checkpoint), "--device", "cpu", *written]
        return main([command, *map(str, arguments), *settings])

    return run_command


@pytest.fixture
def caption(run):
    return lambda *arguments: run("caption", *arguments)


@pytest.fixture
def records():
    """The lines of a file of JSON records."""
    return lambda path: [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]
