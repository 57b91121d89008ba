from __future__ import annotations

import pytest
import torch

from pixelllm_hf.modeling.configuration_pixelllm import PixelLLMConfig
from pixelllm_hf.modeling.modeling_pixelllm import PixelLLMForGroundedGeneration


@pytest.mark.parametrize("preset", ["t5_xl", "bert", "tiny", "for_tests"])
def test_a_config_survives_the_round_trip(preset, tmp_path):
    config = getattr(PixelLLMConfig, preset)()
    config.save_pretrained(tmp_path)
    assert PixelLLMConfig.from_pretrained(tmp_path).to_dict() == config.to_dict()


def test_parts_may_be_given_as_dict_or_object_or_left_out():
    as_dict = PixelLLMConfig(point_head_config={"hidden_size": 7})
    as_object = PixelLLMConfig(point_head_config=as_dict.point_head_config)
    assert as_dict.point_head_config.hidden_size == as_object.point_head_config.hidden_size == 7
    assert PixelLLMConfig().point_head_config.hidden_size == 512


def test_a_wrong_type_is_refused():
    with pytest.raises(Exception, match="image_size"):
        PixelLLMConfig(vision_config={"image_size": "large"})


def test_the_released_recipe_has_the_parameters_of_the_specification():
    """Every count is written out from the sizes in the specification, sections 2 to 6."""
    with torch.device("meta"):
        model = PixelLLMForGroundedGeneration(PixelLLMConfig.t5_xl())

    def count(part: str) -> int:
        return sum(p.numel() for p in model.get_submodule(part).parameters())

    def linear(fan_in: int, fan_out: int) -> int:
        return fan_in * fan_out + fan_out

    width, head = 1280, 80
    block = linear(width, 3 * width) + linear(width, width) + linear(width, 5120) + linear(5120, width) + 4 * width
    tables = 28 * 2 * 27 * head + 4 * 2 * 127 * head
    neck = width * 256 + 256 * 256 * 9 + 2 * 2 * 256
    assert count("vision_towers.sam") == linear(3 * 16 * 16, width) + 64 * 64 * width + 32 * block + tables + neck

    width, inner = 1024, 2730
    attention = 3 * width * width + 2 * width + linear(width, width)
    swiglu = 2 * linear(width, inner) + linear(inner, width) + 2 * inner
    stem = linear(3 * 14 * 14, width) + width + 257 * width
    assert count("vision_towers.eva02") == stem + 24 * (attention + swiglu + 4 * width) + 2 * width

    width = 512
    full, half = 4 * linear(width, width), 3 * linear(width, 256) + linear(256, width)
    layer = full + 2 * half + linear(width, 2048) + linear(2048, width) + 4 * 2 * width
    projections = linear(1280, width) + 2 * linear(256, width) + 33 * linear(width, 1024)
    assert count("prompt_feature_extractor") == 32 * width + 6 * layer + half + 2 * width + projections

    width = 2048
    encoder = 4 * width * width + 3 * width * 5120 + 2 * width
    decoder = 8 * width * width + 3 * width * 5120 + 3 * width
    body = 32128 * width + 24 * (encoder + decoder) + 2 * 32 * 32 + 2 * width
    assert count("language_model") == body + width * 32128
    assert count("visual_projection") == linear(1024, 2048) + 2 * 2048
    assert count("point_head") == 2 * 2048 + linear(2048, 512) + 2 * linear(512, 512) + linear(512, 2 * 4)


def test_the_embedded_size_stays_within_twelve_million_parameters():
    with torch.device("meta"):
        model = PixelLLMForGroundedGeneration(PixelLLMConfig.tiny())
    assert model.num_parameters() <= 12_000_000
