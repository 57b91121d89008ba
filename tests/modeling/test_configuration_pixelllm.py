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


@pytest.mark.parametrize("preset", ["t5_xl", "bert"])
def test_released_recipes_take_heads_of_the_official_sizes(preset, tmp_path):
    plain = getattr(PixelLLMConfig, preset)()
    assert plain.mask_head_config is None and plain.proposal_head_config is None
    getattr(PixelLLMConfig, preset)(mask_head_config={}, proposal_head_config={}).save_pretrained(tmp_path)
    both = PixelLLMConfig.from_pretrained(tmp_path)
    assert both.mask_head_config.hidden_size == 256
    assert both.proposal_head_config.max_detections == 100


def test_a_config_from_before_the_heads_has_none():
    values = PixelLLMConfig.for_tests().to_dict()
    for name in ("mask_head_config", "proposal_head_config", "mask_loss_weight", "detection_loss_weight"):
        del values[name]
    old = PixelLLMConfig.from_dict(values)
    assert old.mask_head_config is None and old.proposal_head_config is None


def test_objects_of_the_embedded_size_are_those_of_levels_with_true_strides():
    config = PixelLLMConfig.tiny()
    cells = config.vision_config.grid_size
    side, head = config.image_size, config.proposal_head_config
    true_strides = [side / (2 * cells), side / cells, side / (cells // 2)]
    assert true_strides == list(head.strides[:3])
    assert head.level_ranges[2][1] > side * 2**0.5 / 2


def test_a_wrong_type_is_refused():
    with pytest.raises(Exception, match="image_size"):
        PixelLLMConfig(vision_config={"image_size": "large"})


def test_the_released_recipe_has_the_parameters_of_the_specification():
    """Every count is written out from the sizes in docs/official.md."""
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
    projection = linear(1024, 2048) + 2 * 2048
    assert count("language_model") == body + width * 32128 + projection
    assert count("point_head") == 2 * 2048 + linear(2048, 512) + 2 * linear(512, 512) + linear(512, 2 * 4)


def test_the_embedded_size_stays_within_sixteen_million_parameters():
    with torch.device("meta"):
        model = PixelLLMForGroundedGeneration(PixelLLMConfig.tiny())
    assert model.num_parameters() <= 16_000_000


def test_the_padding_id_can_be_set_where_trainers_set_it():
    config = PixelLLMConfig.for_tests()
    config.pad_token_id = 7
    assert config.text_config.pad_token_id == config.pad_token_id == 7
