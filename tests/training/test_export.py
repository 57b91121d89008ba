"""A trained model as a folder: what is stored, and how often."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import safe_open

from pixelllm_hf import PixelLLMConfig, PixelLLMForGroundedGeneration
from pixelllm_hf.training.export import save_folder


def test_tied_word_tables_are_stored_once_in_half_precision_too(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = PixelLLMForGroundedGeneration(PixelLLMConfig.for_tests())
    names = {}
    for dtype in (torch.float32, torch.float16):
        save_folder(model, tmp_path / str(dtype), dtype=dtype)
        with safe_open(tmp_path / str(dtype) / "model.safetensors", "pt") as file:
            names[dtype] = set(file.keys())
    assert names[torch.float16] == names[torch.float32]
    loaded, info = PixelLLMForGroundedGeneration.from_pretrained(
        tmp_path / "torch.float16", dtype=torch.float32, output_loading_info=True
    )
    assert not info["missing_keys"]
    tables = {
        parameter.data_ptr()
        for name, parameter in loaded.named_parameters(remove_duplicate=False)
        if "embed_tokens" in name
    }
    assert tables == {loaded.get_input_embeddings().weight.data_ptr()}
