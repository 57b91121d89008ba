from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest

from pixelllm_hf.publishing.command import add_arguments, run


def publish(*arguments: Any) -> int:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return run(parser.parse_args([str(argument) for argument in arguments]))


def test_publishing_prints_the_address_and_the_commit_to_pin(checkpoint: Path, hub: Any, capsys):
    (checkpoint / "notes.log").write_text("mine")
    assert publish(checkpoint, "org/small", "--private", "--no-examples") == 0
    repository = hub.repositories["model", "org/small"]
    printed = capsys.readouterr().out
    assert f"{hub.endpoint}/org/small" in printed and repository.refs["main"] in printed
    assert "not sent: notes.log" in printed
    assert repository.private


def test_a_rehearsal_lists_the_files_and_sends_none(checkpoint: Path, hub: Any, capsys):
    assert publish(checkpoint, "org/small", "--no-examples", "--rehearse") == 0
    assert "  model.safetensors\n" in capsys.readouterr().out
    assert hub.requests == []


def test_the_demo_is_published_with_its_model(checkpoint: Path, hub: Any, tmp_path: Path):
    demo = tmp_path / "demo"
    demo.mkdir()
    (demo / "app.py").write_text("")
    (demo / "requirements.txt").write_text("gradio\n")
    (demo / "README.md").write_text("---\ntitle: x\nsdk: gradio\napp_file: app.py\n---\n")
    assert publish(checkpoint, "org/small", "--no-examples", "--space", "org/try", "--demo", demo) == 0
    assert {("model", "org/small"), ("space", "org/try")} == set(hub.repositories)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--revision", "0" * 40], 2, "Give the name of a branch"),
        (["--evaluation", "none.json"], 2, "is not an evaluation"),
        (["--card", "none.md"], 2, "cannot be read"),
        (["--space", "org/try", "--demo", "nowhere"], 2, "has no app.py"),
        ([], 1, "Log in with `hf auth login`"),
    ],
)
def test_mistakes_are_one_line_and_nothing_is_sent(
    checkpoint: Path, hub: Any, monkeypatch: pytest.MonkeyPatch, capsys, arguments: list[str], code: int, message: str
):
    monkeypatch.delenv("HF_TOKEN")
    assert publish(checkpoint, "org/small", "--no-examples", *arguments) == code
    told = capsys.readouterr().err
    assert message in told and told.count("\n") == 1 and told.startswith("pixelllm: ")
    assert hub.repositories == {}


def test_a_name_without_an_organisation_is_wrong(checkpoint: Path, capsys):
    assert publish(checkpoint, "small", "--no-examples") == 2
    assert "org/name" in capsys.readouterr().err
