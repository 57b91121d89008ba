from __future__ import annotations

import builtins
import sys
from pathlib import Path

import pytest

from pixelllm_hf.cli import WRONG_USAGE, main
from pixelllm_hf.space.launching import MODEL_VARIABLE, default_models


def test_without_gradio_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch, capsys):
    imported = builtins.__import__

    def without_gradio(name, *args, **kwargs):
        if name.partition(".")[0] == "gradio":
            raise ImportError("No module named gradio", name="gradio")
        return imported(name, *args, **kwargs)

    for name in [name for name in sys.modules if name.partition(".")[0] == "gradio"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(builtins, "__import__", without_gradio)
    assert main(["demo"]) == WRONG_USAGE
    assert 'pip install "pixelllm-hf[demo]"' in capsys.readouterr().err


def test_a_model_that_is_not_there_is_wrong_usage(tmp_path: Path, capsys):
    pytest.importorskip("gradio", reason="needs gradio: pip install pixelllm-hf[demo]")
    assert main(["demo", "--model", str(tmp_path / "nothing")]) == WRONG_USAGE
    assert "cannot be loaded" in capsys.readouterr().err


def test_examples_must_be_a_folder(tmp_path: Path, capsys):
    assert main(["demo", "--examples", str(tmp_path / "nothing")]) == WRONG_USAGE
    assert "folder of images" in capsys.readouterr().err


def test_the_environment_names_the_models_of_a_space(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv(MODEL_VARIABLE, raising=False)
    assert default_models() == ["photo", "tiny-reason"]
    monkeypatch.setenv(MODEL_VARIABLE, "org/one, org/two,")
    assert default_models() == ["org/one", "org/two"]
