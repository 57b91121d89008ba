"""Compiled towers change no answer. Their graph is made as a whole; inductor's code is not, which takes minutes."""

from __future__ import annotations

import torch

from pixelllm_hf import PixelLLMConfig, PixelLLMForGroundedGeneration


def test_towers_are_compiled_whole_and_answer_alike():
    torch.manual_seed(0)
    model = PixelLLMForGroundedGeneration(PixelLLMConfig.for_tests()).eval()
    given = {"pixel_values": torch.rand(2, 3, 64, 64) * 255, "max_new_tokens": 6, "num_beams": 1, "do_sample": False}
    plain = model.generate(**given)
    model.vision_towers.compile(backend="aot_eager", fullgraph=True)
    compiled = model.generate(**given)
    assert torch.equal(compiled.sequences, plain.sequences)
    torch.testing.assert_close(compiled.coordinates, plain.coordinates, equal_nan=True, atol=1e-5, rtol=1e-5)
