from __future__ import annotations

import torch

from pixelllm_hf.modeling.configuration_heads import PixelLLMProposalHeadConfig
from pixelllm_hf.modeling.feature_pyramid import NormedConv, SimpleFeaturePyramid


def test_a_map_of_27_cells_gives_the_five_grids_of_the_reference():
    pyramid = SimpleFeaturePyramid(PixelLLMProposalHeadConfig(pyramid_channels=8, pyramid_input_size=12), 6)
    maps = pyramid(torch.randn(2, 27, 27, 6))
    assert [tuple(image_map.shape) for image_map in maps] == [(2, side, side, 8) for side in (54, 27, 13, 7, 4)]


def test_the_norm_is_over_channels_at_every_place():
    torch.manual_seed(0)
    y = NormedConv(5, 16, 3)(torch.randn(2, 5, 6, 7))
    assert y.shape == (2, 16, 6, 7)
    torch.testing.assert_close(y.mean(1), torch.zeros(2, 6, 7), rtol=0, atol=1e-5)
    torch.testing.assert_close(y.var(1, unbiased=False), torch.ones(2, 6, 7), rtol=0, atol=1e-3)
