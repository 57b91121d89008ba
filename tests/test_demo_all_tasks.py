from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest
from PIL import Image

SCRIPT = Path(__file__).parents[1] / "demo" / "all_tasks.py"


def test_the_demo_shows_every_task_of_a_model_with_all_heads(
    small_checkpoint: Path, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch
):
    out = tmp_path / "sheets" / "tasks.png"
    monkeypatch.setattr(sys, "argv", ["all_tasks.py", "--model", str(small_checkpoint), "--out", str(out)])
    runpy.run_path(str(SCRIPT), run_name="__main__")
    printed = capsys.readouterr().out
    for task in ("caption", "trace", "refer", "segment", "region", "dense"):
        assert any(line.startswith(task) for line in printed.splitlines())
    assert "skipped" not in printed
    with Image.open(out) as sheet:
        assert sheet.width > 2000, "three drawings side by side"
