from __future__ import annotations

import pytest
import torch

from pixelllm_hf.modeling.codebook_decoder import CodebookPixelDecoder
from pixelllm_hf.modeling.configuration_pixellm import PixelLMCodebookConfig


def small(**changes) -> PixelLMCodebookConfig:
    sizes = dict(hidden_size=16, num_attention_heads=2, intermediate_size=24, num_hidden_layers=1)
    return PixelLMCodebookConfig(**(sizes | changes))


def ready(config: PixelLMCodebookConfig) -> CodebookPixelDecoder:
    torch.manual_seed(0)
    decoder = CodebookPixelDecoder(config).eval()
    for name, buffer in decoder.named_buffers():
        assert name.endswith("gaussian_matrix")
        buffer.normal_()
    return decoder


def some_maps(levels: int, images: int = 2, side: int = 4) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(images, side, side, 16, generator=generator) for _ in range(levels)]


@pytest.mark.parametrize(("levels", "sides"), [(1, [8]), (2, [8, 16]), (3, [8, 16, 16])])
def test_any_number_of_levels_decodes_each_finer_or_as_fine_as_the_one_before(levels, sides):
    decoder = ready(small(num_scales=levels))
    output = decoder(some_maps(levels), torch.randn(3, levels, 16), torch.tensor([0, 1, 1]))
    assert [level.shape[-1] for level in output.level_logits] == sides
    assert output.logits.shape == (3, sides[-1], sides[-1])


def test_a_mask_does_not_depend_on_the_other_targets_of_the_batch():
    decoder, maps, targets = ready(small()), some_maps(2), torch.randn(3, 2, 16)
    together = decoder(maps, targets, torch.tensor([0, 1, 1])).logits
    alone = decoder(maps, targets[2:], torch.tensor([1])).logits
    torch.testing.assert_close(together[2:], alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("levels", [1, 2])
def test_no_target_makes_no_mask(levels):
    output = ready(small(num_scales=levels))(
        some_maps(levels), torch.zeros(0, levels, 16), torch.zeros(0, dtype=torch.long)
    )
    assert output.logits.shape == (0, 8 * levels, 8 * levels)


def test_the_second_level_looks_where_the_first_has_found_the_target():
    decoder, maps, targets = ready(small()), some_maps(2), torch.randn(1, 2, 16)
    plain = decoder(maps, targets, torch.tensor([0])).level_logits[1]
    other_first = decoder([maps[0].flip(1), maps[1]], targets, torch.tensor([0])).level_logits[1]
    assert not torch.allclose(plain, other_first, atol=1e-3)


def test_every_weight_is_learnt():
    decoder = ready(small()).train()
    decoder(some_maps(2), torch.randn(2, 2, 16), torch.tensor([0, 1])).logits.square().mean().backward()
    assert [name for name, weight in decoder.named_parameters() if weight.grad is None] == []


def test_scales_that_are_not_trainable_stay_at_the_released_constants():
    decoder = ready(small(trainable_scales=False))
    assert decoder.level_scales.tolist() == [0.5, 0.5]
    assert not decoder.level_scales.requires_grad


def test_maps_of_different_grids_are_refused_with_their_shapes():
    maps = [torch.zeros(1, 4, 4, 16), torch.zeros(1, 8, 8, 16)]
    with pytest.raises(ValueError, match=r"2 maps of one shape.*\(1, 8, 8, 16\)"):
        ready(small())(maps, torch.zeros(1, 2, 16), torch.tensor([0]))
