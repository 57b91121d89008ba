"""The script that walks the whole road at full size, at a small one."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_road_from_published_layouts_to_a_caption(tmp_path: Path):
    program = [sys.executable, "scripts/check_full_size.py", "--work", str(tmp_path), "--size", "small"]
    done = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    stages = [line.split()[0] for line in done.stdout.splitlines()]
    assert stages == ["sources", "begin", "assemble", "caption"]
    assert re.search(r"files kept 2 · files written [1-9]", done.stdout)
    assert re.search(r"tokens \d+ · coordinates finite True · weights GiB [\d.]+ · peak GiB [\d.]+", done.stdout)
