"""Evaluation JSON of any content: a report that can be drawn up, or `ReportError`."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from pixelllm_hf import embedded_checkpoint
from pixelllm_hf.evaluation.report import ReportError, main, read_report

TEMPLATE = """---
license: mit
---
# Model
<!-- metrics:{task} --><!-- /metrics:{task} -->
<!-- other-images --><!-- /other-images -->
"""


def test_damaged_evaluations_are_refused_or_make_a_card(fuzz: Any, fuzz_inputs: int, tmp_path: Path) -> None:
    import json

    files = sorted(embedded_checkpoint("tiny").glob("evaluation_*.json"))[:4]
    whole = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    raw = [file.read_bytes() for file in files]

    def make(chance: random.Random) -> bytes:
        if chance.random() < 0.2:
            return fuzz.damaged_bytes(chance.choice(raw), chance)
        return fuzz.as_json(fuzz.damaged(chance.choice(whole), chance))

    def attempt(content: bytes) -> None:
        (tmp_path / "evaluation.json").write_bytes(content)
        report = read_report(tmp_path / "evaluation.json")
        (tmp_path / "template.md").write_text(TEMPLATE.format(task=report["task"]))
        command = ["--template", "template.md", "--evaluation", "evaluation.json", "--out", "card.md"]
        named = [str(tmp_path / word) if word.endswith((".md", ".json")) else word for word in command]
        code = main(named)
        fuzz.must(code == 0 or not report["task"].isidentifier(), f"an accepted evaluation made no card: {code}")

    fuzz.run(attempt, make, fuzz_inputs, typed=[ReportError], megabytes=256).check()
