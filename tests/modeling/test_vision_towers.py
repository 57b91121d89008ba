from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from pixelllm_hf.modeling.configuration_pixelllm import PixelLLMConfig
from pixelllm_hf.modeling.configuration_towers import EVA02_MEAN, EVA02_STD, SAM_MEAN, SAM_STD
from pixelllm_hf.modeling.configuration_vision import PixelLLMVisionConfig
from pixelllm_hf.modeling.vision_towers import (
    VisionTowers,
    fuse_maps,
    normalize_pixels,
    resize_map,
    valid_size_hw,
)

GOLDEN = Path(__file__).parents[1] / "golden" / "pixelllm" / "utils.safetensors"


@pytest.fixture
def golden() -> dict[str, Tensor]:
    return load_file(GOLDEN)


def random_towers(image_size: int = 64, **sam: bool | float) -> VisionTowers:
    """The test-sized towers, as a fresh model has them: in training mode."""
    torch.manual_seed(0)
    sizes = PixelLLMConfig.for_tests().vision_config.to_dict()
    sizes["towers"][1].update(sam)
    sizes["image_size"] = image_size
    towers = VisionTowers(PixelLLMVisionConfig(**sizes))
    with torch.no_grad():
        for weight in towers.parameters():
            nn.init.normal_(weight, std=0.2)
    return towers


def random_pixels(images: int = 2, side: int = 64) -> Tensor:
    return torch.rand(images, 3, side, side, generator=torch.Generator().manual_seed(1)) * 255


def channels_last(pixels: Tensor) -> Tensor:
    return pixels.permute(0, 2, 3, 1)


def test_normalised_pixels_equal_the_reference(golden):
    pixels, mask = golden["inputs/image"].permute(0, 3, 1, 2), golden["inputs/padding_mask"].bool()
    eva02 = channels_last(normalize_pixels(pixels, mask, mean=EVA02_MEAN, std=EVA02_STD))
    sam = channels_last(normalize_pixels(pixels, mask, mean=SAM_MEAN, std=SAM_STD))
    torch.testing.assert_close(eva02, golden["outputs/git_norm"])
    torch.testing.assert_close(sam, golden["outputs/sam_norm"])
    torch.testing.assert_close(resize_map(sam, (32, 32), "bilinear"), golden["outputs/sam_norm_resized"])


def test_the_size_of_the_unpadded_image_equals_the_reference(golden):
    sizes = valid_size_hw(golden["inputs/padding_mask"].bool())
    assert sizes.dtype == torch.int64
    assert sizes.tolist() == golden["outputs/image_shape_hw"].tolist()


def test_fused_maps_equal_the_reference(golden):
    eva02, sam = golden["inputs/git_feat"], golden["inputs/sam_feat"]
    torch.testing.assert_close(fuse_maps([eva02, sam]), golden["outputs/concat_plus"])
    torch.testing.assert_close(fuse_maps([sam, eva02], (8, 8)), golden["outputs/concat_comma_down"])


@pytest.mark.parametrize(
    ("name", "size_hw", "mode"),
    [("bicubic_down", (7, 7), "bicubic"), ("bicubic_up", (27, 27), "bicubic"), ("bilinear_up", (40, 40), "bilinear")],
)
def test_resized_maps_equal_the_reference(golden, name, size_hw, mode):
    resized = resize_map(golden["inputs/map_2d"], size_hw, mode)
    torch.testing.assert_close(resized, golden[f"outputs/resize_{name}"])


@pytest.mark.parametrize(("name", "length"), [("down", 4), ("up", 11)])
def test_resized_tables_equal_the_reference(golden, name, length):
    resized = resize_map(golden["inputs/table_1d"].unsqueeze(1), (length, 1), "bilinear").squeeze(1)
    torch.testing.assert_close(resized, golden[f"outputs/resize_linear_1d_{name}"])


def test_maps_meet_at_the_larger_grid_eva02_first():
    towers = random_towers(image_size=112).eval()  # 8 patches of 14 pixels, 7 of 16
    features = towers(random_pixels(side=112))
    assert features["eva02"].shape == (2, 8, 8, 24)
    assert features["sam"].shape == (2, 7, 7, 16)
    assert features.fused.shape == (2, 8, 8, 40)
    torch.testing.assert_close(features.fused[..., :24], features["eva02"])
    torch.testing.assert_close(features.fused[..., 24:], resize_map(features["sam"], (8, 8)))


def test_what_lies_in_the_padding_does_not_matter():
    towers = random_towers().eval()
    mask = torch.ones(2, 64, 64, dtype=torch.bool)
    mask[0, 40:] = False
    mask[1, :, 50:] = False
    pixels = random_pixels()
    changed = pixels.masked_fill(~mask[:, None], torch.nan)
    torch.testing.assert_close(towers(changed, mask).fused, towers(pixels, mask).fused, atol=0, rtol=0)
    assert not torch.equal(towers(pixels, mask).fused, towers(pixels).fused)


def test_padding_is_zero_after_normalisation():
    mask = torch.tensor([[[True, False]]])
    pixels = normalize_pixels(torch.full((1, 3, 1, 2), 255.0), mask, mean=SAM_MEAN, std=SAM_STD)
    assert pixels[0, :, 0, 1].tolist() == [0.0, 0.0, 0.0]
    assert pixels[0, :, 0, 0].tolist() == pytest.approx([(255 - m) / s for m, s in zip(SAM_MEAN, SAM_STD, strict=True)])


def test_no_mask_means_that_every_pixel_is_real():
    towers = random_towers().eval()
    everything = torch.ones(2, 64, 64, dtype=torch.bool)
    torch.testing.assert_close(towers(random_pixels()).fused, towers(random_pixels(), everything).fused)


def test_a_map_does_not_depend_on_its_neighbours_in_the_batch():
    towers = random_towers().eval()
    pixels = random_pixels(3)
    torch.testing.assert_close(towers(pixels).fused[2:], towers(pixels[2:]).fused, atol=1e-5, rtol=1e-5)


def test_another_canvas_needs_no_other_weights():
    towers, larger = random_towers(64).eval(), random_towers(96).eval()
    larger.load_state_dict(towers.state_dict())
    assert larger(random_pixels(side=96)).fused.shape == (2, 6, 6, 40)


def test_a_frozen_tower_gets_no_gradients_and_the_other_does():
    towers = random_towers(frozen=True).train()
    towers(random_pixels()).fused.square().sum().backward()
    assert all(weight.grad is None and not weight.requires_grad for weight in towers.sam.parameters())
    assert all(weight.grad is not None for weight in towers.eva02.parameters())


def test_a_frozen_tower_repeats_itself_under_train():
    towers = random_towers(frozen=True, drop_path_rate=0.9).train()
    assert towers.training and towers.eva02.training and not towers.sam.training
    pixels = random_pixels(8)
    expected = towers.eval()(pixels)["sam"]
    towers.train()
    torch.testing.assert_close(towers(pixels)["sam"], expected, atol=0, rtol=0)


def test_a_fresh_model_has_its_frozen_tower_in_evaluation_mode():
    assert not random_towers(frozen=True).sam.training


def test_drop_path_when_frozen_keeps_drop_path_active_and_gradients_away():
    towers = random_towers(frozen=True, drop_path_when_frozen=True, drop_path_rate=0.9).train()
    pixels = random_pixels(8)
    first, second = towers(pixels)["sam"], towers(pixels)["sam"]
    assert not torch.equal(first, second)
    assert not first.requires_grad
    towers.eval()
    torch.testing.assert_close(towers(pixels)["sam"], towers(pixels)["sam"], atol=0, rtol=0)


def test_drop_path_of_a_tower_that_trains_stops_in_evaluation():
    towers = random_towers(drop_path_rate=0.9).train()
    pixels = random_pixels(8)
    assert not torch.equal(towers(pixels)["sam"], towers(pixels)["sam"])
    towers.eval()
    torch.testing.assert_close(towers(pixels)["sam"], towers(pixels)["sam"], atol=0, rtol=0)


def test_a_tower_is_still_frozen_after_loading(tmp_path):
    class Loadable(PreTrainedModel):
        config_class = PixelLLMVisionConfig

        def __init__(self, config):
            super().__init__(config)
            self.towers = VisionTowers(config)
            self.post_init()

    Loadable(random_towers(frozen=True).config).save_pretrained(tmp_path)
    model = Loadable.from_pretrained(tmp_path)
    assert not any(weight.requires_grad for weight in model.towers.sam.parameters())
    assert all(weight.requires_grad for weight in model.towers.eva02.parameters())


@pytest.mark.parametrize("shape", [(3, 64, 64), (2, 64, 64, 3)])
def test_pixels_of_another_layout_are_refused(shape):
    with pytest.raises(ValueError, match="images, 3, height, width"):
        random_towers()(torch.zeros(shape))


def test_a_mask_of_another_size_is_refused():
    with pytest.raises(ValueError, match="pixel_mask must have shape"):
        random_towers()(random_pixels(), torch.ones(2, 32, 64, dtype=torch.bool))


def test_preset_sizes_agree_with_what_the_towers_give():
    for config in (PixelLLMConfig.t5_xl().vision_config, PixelLLMConfig.tiny().vision_config):
        with torch.device("meta"):
            features = VisionTowers(config)(torch.zeros(1, 3, config.image_size, config.image_size))
        assert features.fused.shape == (1, config.grid_size, config.grid_size, config.feature_channels)
