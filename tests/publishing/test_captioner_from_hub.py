"""Commands with `--model org/name`: what is downloaded is compared, pinned and found again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import HfApi
from PIL import Image

from pixelllm_hf.cli import main
from pixelllm_hf.inference import Captioner, ModelError, Request
from pixelllm_hf.publishing import publish_model

IMAGE = Image.radial_gradient("L").convert("RGB").resize((60, 40))


@pytest.fixture
def commit(checkpoint: Path, hub: Any) -> str:
    """The commit of a published model."""
    done = publish_model(checkpoint, "org/small", examples=[])
    assert done.commit is not None
    return done.commit


def load(name: Any, **options: Any) -> Captioner:
    return Captioner.load(str(name), "cpu", "auto", {"max_new_tokens": 5}, **options)


def said(captioner: Captioner) -> list[Any]:
    return [result.to_dict() for result in captioner([IMAGE], Request("caption"))[0]]


def test_a_model_of_the_hub_answers_as_its_folder_does(commit: str, checkpoint: Path, hub: Any):
    assert said(load("org/small")) == said(load(checkpoint))
    fetched = {request.path.rsplit("/", 1)[-1] for request in hub.requests if request.method == "GET"}
    assert "tokenizer.json" in fetched and not [name for name in fetched if name.endswith((".py", ".md"))]


def test_a_revision_stays_what_it_was_when_the_model_changes(commit: str, checkpoint: Path, hub: Any):
    HfApi().upload_file(path_or_fileobj=b"{", path_in_repo="config.json", repo_id="org/small")
    with pytest.raises(ModelError, match="'org/small' cannot be loaded"):
        load("org/small")
    assert said(load("org/small", revision=commit)) == said(load(checkpoint))


def test_a_damaged_download_is_named_and_not_used(commit: str, hub: Any):
    hub.damage("model.safetensors", "flipped")
    with pytest.raises(
        ModelError, match=r"'org/small' cannot be loaded: model\.safetensors of org/small arrived damaged"
    ):
        load("org/small")


def test_what_was_downloaded_is_there_offline(commit: str, hub: Any, monkeypatch: pytest.MonkeyPatch):
    from huggingface_hub import constants

    expected = said(load("org/small"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    before = len(hub.requests)
    assert said(load("org/small")) == expected
    with pytest.raises(ModelError, match="'org/other' cannot be loaded"):
        load("org/other")
    assert len(hub.requests) == before


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("tiny", {"revision": "main"}, "lies here and has no revisions"),
        ("no/such/folder", {}, "there is no such folder, and a model of the Hub is called org/name"),
        ("org/none", {}, "'org/none' cannot be loaded"),
        ("org/small", {"revision": "never"}, "'org/small' cannot be loaded"),
    ],
)
def test_a_model_that_is_not_there_is_said_to_be(commit: str, name: str, options: dict, message: str):
    with pytest.raises(ModelError, match=message):
        load(name, **options)


def test_the_command_takes_a_model_and_its_revision(commit: str, hub: Any, tmp_path: Path, capsys):
    IMAGE.save(tmp_path / "a.png")
    arguments = ["caption", str(tmp_path / "a.png"), "--device", "cpu", "--max-new-tokens", "5", "--model", "org/small"]
    assert main([*arguments, "--revision", commit]) == 0
    assert "a.png" in capsys.readouterr().out
    assert main([*arguments, "--revision", "0" * 40]) == 2
    assert "org/small" in capsys.readouterr().err
