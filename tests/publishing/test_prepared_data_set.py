"""scripts/prepare_dataset.py with --push_to_hub: annotation files on one side, rows with a name on the other."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from typing import Any

import pytest

from pixelllm_hf.data.scenes.writers import write_scenes

SCRIPT = Path(__file__).parents[2] / "scripts" / "prepare_dataset.py"


@pytest.fixture
def arguments(tmp_path: Path) -> list[str]:
    """What prepares the narratives of three composed scenes."""
    scenes = tmp_path / "scenes"
    write_scenes(scenes, 3, 1)
    return [
        "--format", "localized_narratives", "--annotations", str(scenes / "localized_narratives.jsonl"),
        "--images", str(scenes / "images"), "--out", str(tmp_path / "rows"),
    ]  # fmt: skip


def prepare(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *arguments])
    runpy.run_path(str(SCRIPT), run_name="__main__")


def test_prepared_rows_are_pushed_and_read_by_their_name(
    arguments: list[str], hub: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
):
    prepare(monkeypatch, *arguments, "--push_to_hub", "org/narratives", "--license", "cc-by-4.0", "--private")
    assert capsys.readouterr().out.splitlines()[-1] == f"{hub.endpoint}/datasets/org/narratives"
    assert hub.repositories["dataset", "org/narratives"].private
    assert "license: cc-by-4.0" in hub.files("org/narratives", kind="dataset")["README.md"].decode()
    from datasets import config, load_dataset

    monkeypatch.setattr(config, "HF_ENDPOINT", hub.endpoint)
    kept, pushed = (
        load_dataset(name, split="train", cache_dir=str(tmp_path / "cache"))
        for name in (str(tmp_path / "rows"), "org/narratives")
    )
    assert pushed.features == kept.features
    assert len(pushed) == len(kept) >= 3
    for mine, theirs in zip(kept, pushed, strict=True):
        assert mine.pop("image").tobytes() == theirs.pop("image").tobytes()
        assert mine == theirs


def test_rows_that_cannot_be_pushed_stay_and_it_is_said_how_to_go_on(
    arguments: list[str], hub: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    push = [*arguments, "--push_to_hub", "org/narratives", "--license", "cc-by-4.0"]
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(SystemExit, match="without a token.*the shards are complete, the same command uploads them"):
        prepare(monkeypatch, *push)
    shards = {path: path.stat().st_mtime_ns for path in (tmp_path / "rows").rglob("*.parquet")}
    assert shards
    monkeypatch.setenv("HF_TOKEN", hub.token)
    prepare(monkeypatch, *push)
    assert {path: path.stat().st_mtime_ns for path in shards} == shards, "they are not made anew"
    assert [n for n in hub.files("org/narratives", kind="dataset") if n.endswith(".parquet")]


def test_rows_without_a_licence_are_not_even_prepared(
    arguments: list[str], hub: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
):
    with pytest.raises(SystemExit):
        prepare(monkeypatch, *arguments, "--push_to_hub", "org/narratives")
    assert "--push_to_hub needs --license" in capsys.readouterr().err
    assert not (tmp_path / "rows").exists() and hub.requests == []
