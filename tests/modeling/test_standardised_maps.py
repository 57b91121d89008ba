from __future__ import annotations

import pytest
import torch

from pixelllm_hf.modeling.configuration_pixelllm import PixelLLMConfig
from pixelllm_hf.modeling.configuration_vision import PixelLLMVisionConfig
from pixelllm_hf.modeling.modeling_pixelllm import PixelLLMForGroundedGeneration
from pixelllm_hf.modeling.vision_towers import VisionTowers

YOLOX = {"model_type": "pixelllm_yolox_tower", "base_channels": 4, "output_maps": ["p4", "boxes"]}


def vision(**options) -> PixelLLMVisionConfig:
    return PixelLLMVisionConfig(image_size=64, towers=[YOLOX], fused_grid_size=2, **options)


@pytest.fixture
def towers() -> VisionTowers:
    torch.manual_seed(0)
    return VisionTowers(vision(standardise=True)).eval()


def images(number: int = 3) -> torch.Tensor:
    return torch.rand(number, 3, 64, 64, generator=torch.Generator().manual_seed(1)) * 255


def test_a_map_is_not_standardised_unless_asked():
    assert not any("fused" in name for name in VisionTowers(vision()).state_dict())
    with pytest.raises(ValueError, match="standardise"):
        VisionTowers(vision()).set_statistics(torch.zeros(38), torch.ones(38))


def test_measured_statistics_make_every_channel_standard(towers):
    raw = towers(images()).fused
    mean, scale = towers.measure_statistics([(images()[:2], None), (images()[2:], None)])
    torch.testing.assert_close(mean, raw.mean((0, 1, 2)))
    towers.set_statistics(mean, scale)
    fused = towers(images()).fused[..., :32]
    torch.testing.assert_close(fused.mean((0, 1, 2)), torch.zeros(32), atol=1e-4, rtol=0)
    torch.testing.assert_close(fused.std((0, 1, 2), unbiased=False), torch.ones(32), atol=1e-3, rtol=0)
    again = towers.measure_statistics([(images(), None)])  # of the map as it was
    torch.testing.assert_close(again, (mean, scale), atol=1e-4, rtol=1e-4)


def test_cells_of_padding_are_not_measured(towers):
    mask = torch.zeros(1, 64, 64, dtype=torch.bool)
    mask[:, :32] = True
    mean, _ = towers.measure_statistics([(images(1), mask)])
    torch.testing.assert_close(mean, towers(images(1), mask).fused[:, :1].mean((0, 1, 2)))


def test_boxes_as_numbers_stay_as_they_are(towers):
    assert towers.config.standardised_channels == [True] * 32 + [False] * 6
    raw = towers(images()).fused
    towers.set_statistics(torch.full((38,), 0.5), torch.full((38,), 0.1))
    assert torch.equal(towers(images()).fused[..., 32:], raw[..., 32:])
    assert not torch.allclose(towers(images()).fused[..., :32], raw[..., :32])


def test_no_cell_is_farther_than_eight_deviations(towers):
    towers.set_statistics(torch.zeros(38), torch.full((38,), 1e-4))
    assert towers(images()).fused.abs().max() == 8


@pytest.mark.parametrize(
    ("mean", "scale", "message"),
    [
        (torch.zeros(5), torch.ones(38), "mean must be 38"),
        (torch.zeros(38), torch.full((38,), torch.nan), "scale must be 38 finite"),
        (torch.zeros(38), torch.zeros(38), "above 0"),
    ],
)
def test_statistics_that_cannot_be_used_are_refused(towers, mean, scale, message):
    with pytest.raises(ValueError, match=message):
        towers.set_statistics(mean, scale)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_statistics_are_saved_with_the_weights_in_float32(tmp_path, dtype):
    config = PixelLLMConfig.for_tests(vision_config=vision(standardise=True, mask_map="yolox.p4").to_dict())
    model = PixelLLMForGroundedGeneration(config)
    assert model.vision_towers.fused_scale.eq(1).all()
    mean, scale = torch.randn(38), torch.rand(38) + 0.1
    model.vision_towers.set_statistics(mean, scale)
    assert torch.equal(model.bfloat16().vision_towers.fused_mean[:32], mean[:32])
    model.float().save_pretrained(tmp_path)
    loaded = PixelLLMForGroundedGeneration.from_pretrained(tmp_path, dtype=dtype)
    assert loaded.vision_towers.fused_mean.dtype == torch.float32
    assert torch.equal(loaded.vision_towers.fused_mean, model.vision_towers.fused_mean)
    assert torch.equal(loaded.vision_towers.fused_scale, model.vision_towers.fused_scale)
