"""`make demo` in the environment that the tests run in."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

REPOSITORY = Path(__file__).parents[1]
BIN = Path(sys.executable).parent  # not resolved: the interpreter of an environment is a link


def test_make_demo_captions_the_examples_and_shows_every_task(tmp_path: Path):
    if shutil.which("make") is None:
        pytest.skip("needs make")
    if not (BIN / "pixelllm").is_file():
        pytest.skip(f"needs the command pixelllm beside {sys.executable}: pip install --editable .")
    command = ["make", "demo", f"BIN={BIN}", f"OUT={tmp_path / 'out'}", "--assume-old=.venv/.package"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}  # of make test
    done = subprocess.run(
        command, cwd=REPOSITORY, env=environment | {"HF_HUB_OFFLINE": "1"}, capture_output=True, text=True, timeout=1800
    )
    assert done.returncode == 0, done.stdout + done.stderr
    records = [json.loads(line) for line in (tmp_path / "out" / "captions.jsonl").read_text("utf-8").splitlines()]
    assert len(records) == 5
    for name in ("skier.png", "coffee.png", "all_tasks.png"):
        with Image.open(tmp_path / "out" / name) as drawn:
            assert drawn.width >= 600
