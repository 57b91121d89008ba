"""What `--model` may name, and how what is none is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from pixelllm_hf.inference import ModelError, ModelSource


def test_an_adapter_is_told_from_a_folder_that_is_no_model(tmp_path: Path):
    with pytest.raises(ModelError, match=r"has no config\.json"):
        ModelSource.find(str(tmp_path), None)
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelError, match=r"an adapter of peft and no model.*merge_and_unload"):
        ModelSource.find(str(tmp_path), None)
