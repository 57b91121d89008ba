"""What is timed side by side gives the same, and what is counted is right."""

from __future__ import annotations

import pytest
import torch

from pixelllm_hf import PixelLLMConfig, PixelLLMForGroundedGeneration
from pixelllm_hf.benchmarks import cached_training, encoder, generation, official_decoding, regions
from pixelllm_hf.benchmarks.pairs import timed_in_turn


@pytest.fixture(scope="module")
def model() -> PixelLLMForGroundedGeneration:
    torch.manual_seed(0)
    return PixelLLMForGroundedGeneration(PixelLLMConfig.for_tests()).eval()


def test_every_way_runs_as_often_and_no_way_is_always_first():
    runs: list[str] = []
    found = timed_in_turn({name: lambda name=name: runs.append(name) for name in ("one", "other")}, 2)  # type: ignore[misc]
    assert runs == ["one", "other", "one", "other", "other", "one"]
    assert [len(seconds) for seconds in found.seconds.values()] == [2, 2]


def test_our_sam_encoder_gives_what_that_of_transformers_gives():
    row = encoder.compare("tiny", image_size=320, images=2, repeats=1)  # 20 cells, not a multiple of a window's 14
    assert row.difference < 1e-5


def test_an_encoder_with_other_weights_differs():
    theirs = encoder.transformers_encoder("tiny", 320)
    ours = encoder.with_weights_of(theirs)
    pixels = torch.randn(1, 3, 320, 320)
    with torch.no_grad():
        expected = theirs(pixels).last_hidden_state.permute(0, 2, 3, 1)
        ours.blocks[0].attn.qkv.bias[-1] += 0.5  # type: ignore[union-attr]
        assert (ours(pixels)["neck"] - expected).abs().max() > 1e-3


def test_operations_of_an_encoder_are_those_that_its_sizes_say():
    tower = encoder.with_weights_of(encoder.transformers_encoder("tiny", 224))  # 14 cells: one whole window
    cells, width = 14 * 14, 96
    a_block = 2 * cells * 12 * width**2 + 4 * cells * cells * width + 2 * 2 * cells * 14 * width
    neck = 2 * cells * (width * 256 + 9 * 256 * 256)
    expected = 2 * cells * 3 * 16 * 16 * width + 2 * a_block + neck
    assert encoder.floating_point_operations(tower, torch.zeros(1, 3, 224, 224)) == pytest.approx(expected, rel=1e-4)


def test_bare_decoding_gives_the_same_tokens_whatever_rules_and_depths_the_model_has():
    config = PixelLLMConfig.for_tests()
    config.text_config.num_layers, config.text_config.num_decoder_layers = 1, 3
    torch.manual_seed(0)
    deep = PixelLLMForGroundedGeneration(config).eval()
    deep.generation_config.no_repeat_ngram_size = 2
    deep.generation_config.max_repeated_tokens = 3  # type: ignore[attr-defined]
    row = generation.compare(deep, rows=2, beams=1, tokens=12, repeats=1)
    assert row.tokens_equal and row.worst_location_error < 1e-4
    assert deep.config.text_config.num_layers == 1


def test_the_official_way_of_decoding_gives_the_same_words_and_places(model):
    row = official_decoding.compare(model, prompts=3, tokens=6, repeats=1)
    assert row.tokens_equal and row.location_error < 1e-5


def test_regions_are_answered_together_as_alone(model):
    assert regions.compare(model, prompts=3, tokens=5, repeats=1).equal


def test_training_on_cached_features_has_the_losses_of_training_on_images():
    row = cached_training.compare("tiny", batch_size=2, repeats=1)
    assert row.worst_loss_error < 1e-3
