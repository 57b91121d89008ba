"""The script for GPU machines, rehearsed where there is none."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]


def check(*words: str) -> subprocess.CompletedProcess[str]:
    program = [sys.executable, "scripts/check_gpu.py", *words]
    return subprocess.run(program, cwd=ROOT, capture_output=True, text=True, timeout=600)


def test_every_stage_and_check_runs_in_a_rehearsal(tmp_path: Path):
    done = check("--rehearse", "--report", str(tmp_path / "report.json"))
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((tmp_path / "report.json").read_text())
    stages = [name for name in report if name.startswith("a step of ")]
    recipes = {path.stem for path in (ROOT / "configs" / "pixelllm").glob("*.yaml")}
    recipes -= {"reason"}  # composed scenes have no rows for it
    assert {name.removeprefix("a step of ") for name in stages} == recipes
    assert report["map in bfloat16, largest relative error"] > 0
    assert report["map in float32, largest relative error"] == 0  # the CPU against itself


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_that_nothing_was_checked():
    done = check()
    assert done.returncode == 77
    assert "nothing was checked" in done.stdout
