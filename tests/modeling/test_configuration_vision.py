from __future__ import annotations

import pytest
import torch
from transformers import BartConfig, CLIPVisionConfig, MambaConfig, MT5Config, PreTrainedConfig, T5Config

from pixelllm_hf.modeling.configuration_pixelllm import PixelLLMConfig
from pixelllm_hf.modeling.configuration_towers import (
    PixelLLMEfficientNetLiteTowerConfig,
    PixelLLMSamTowerConfig,
    PixelLLMYoloxTowerConfig,
)
from pixelllm_hf.modeling.configuration_vision import PixelLLMVisionConfig
from pixelllm_hf.modeling.modeling_pixelllm import PixelLLMForGroundedGeneration
from pixelllm_hf.modeling.vision_towers import VisionTowers, resize_map

LITE = {"model_type": "pixelllm_efficientnet_lite_tower", "name": "what", "output_maps": ["stage2", "stage4"]}
YOLOX = {"model_type": "pixelllm_yolox_tower", "name": "where", "base_channels": 4, "num_classes": 3}


def vision(**overrides) -> PixelLLMVisionConfig:
    return PixelLLMVisionConfig(**{"image_size": 64, "towers": [LITE, YOLOX], **overrides})


def test_a_config_from_before_the_list_reads_as_the_same_two_towers():
    new = PixelLLMConfig.for_tests().vision_config
    eva02, sam = ({**tower} for tower in new.to_dict()["towers"])
    for values in (eva02, sam):
        for name in ("name", "input_size"):
            del values[name]
    old = {"image_size": new.image_size, "eva02_config": eva02, "sam_config": sam, "model_type": "pixelllm_vision"}
    assert PixelLLMConfig.for_tests(vision_config=old).vision_config.to_dict() == new.to_dict()


def test_nothing_said_is_the_pair_of_the_paper():
    config = PixelLLMVisionConfig()
    assert [tower.model_type for tower in config.towers] == ["pixelllm_eva02_tower", "pixelllm_sam_tower"]
    assert config.fused_maps == ["eva02", "sam"] and config.mask_map == "sam"
    assert (config.grid_size, config.feature_channels, config.mask_map_channels) == (27, 1280, 256)


def test_towers_given_twice_are_refused():
    with pytest.raises(ValueError, match="given twice"):
        vision(sam_config={"hidden_size": 24})


def test_a_config_survives_the_round_trip_whatever_the_towers(tmp_path):
    config = PixelLLMConfig.for_tests(vision_config=vision(fused_maps=["where.p4", "what"], mask_map="fused"))
    config.save_pretrained(tmp_path)
    again = PixelLLMConfig.from_pretrained(tmp_path)
    assert again.to_dict() == config.to_dict()
    assert again.vision_config.towers[1].output_maps == ["p3", "p4", "p5"]
    assert again.vision_config.fused_maps == ["where.p4", "what.stage2", "what.stage4"]


def test_a_towers_name_stands_for_all_of_its_maps_and_a_single_map_bears_it():
    config = vision(towers=[LITE, {**YOLOX, "output_maps": ["p5"]}], fused_maps=["where", "what.stage4"])
    assert config.map_names == ["what.stage2", "what.stage4", "where"]
    assert config.fused_maps == ["where", "what.stage4"]
    assert config.feature_channels == 64 + 80


@pytest.mark.parametrize(
    ("overrides", "complaint"),
    [
        ({"towers": []}, "at least one"),
        ({"towers": [LITE, LITE]}, r"a name of its own.*\['what', 'what'\]"),
        ({"towers": [{**LITE, "name": "fused"}]}, "identifier other than 'fused'"),
        ({"towers": [{**LITE, "name": "a.b"}]}, "identifier"),
        ({"towers": [{**LITE, "input_size": 0}]}, "input_size of tower 'what'"),
        ({"towers": [{**LITE, "output_maps": ["stage8"]}]}, "output_maps must be some of stage1"),
        ({"towers": [{**YOLOX, "output_maps": []}]}, "output_maps must be some of p3"),
        ({"towers": [{**LITE, "stage_depths": [1]}]}, "equally many"),
        ({"fused_maps": []}, "at least one map"),
        ({"fused_maps": ["what", "what.stage2"]}, "none twice"),
        ({"fused_maps": ["sam"]}, "fused_maps has 'sam'.*what.stage2, what.stage4, where.p3"),
        ({"mask_map": "wher"}, "mask_map has 'wher'"),
        ({"mask_map": "where"}, "mask_map must be one map.*where.p3, where.p4"),
    ],
)
def test_a_list_that_makes_no_sense_is_refused_by_name(overrides, complaint):
    with pytest.raises(ValueError, match=complaint):
        vision(**overrides)


def test_a_tower_cannot_be_called_like_a_part_of_a_module():
    with pytest.raises(ValueError, match="cannot be called 'train'"):
        VisionTowers(vision(towers=[{**LITE, "name": "train"}]))


@pytest.mark.parametrize(
    "given", [CLIPVisionConfig(), {"model_type": "clip_vision_model"}, {"model_type": "nonsense"}, {}]
)
def test_a_tower_of_a_foreign_family_is_refused_with_what_is_supported(given):
    with pytest.raises(ValueError, match="no vision tower.*pixelllm_eva02_tower.*pixelllm_yolox_tower.*dinov2"):
        vision(towers=[given])
    with pytest.raises(TypeError, match="config or a dict"):
        vision(towers=["sam"])


@pytest.mark.parametrize("key", ["eva02_config", "sam_config"])
def test_a_foreign_config_in_the_place_of_a_tower_builds_no_other_tower(key):
    with pytest.raises(ValueError, match="clip_vision_model"):
        PixelLLMVisionConfig(**{key: CLIPVisionConfig()})


def test_a_tower_s_config_of_another_copy_of_the_code_keeps_its_settings():
    """Code that comes with a checkpoint is loaded more than once, and each time makes classes of its own."""
    copy = type("PixelLLMYoloxTowerConfig", (PreTrainedConfig,), {"model_type": "pixelllm_yolox_tower"})
    (tower,) = PixelLLMVisionConfig(towers=[copy(base_channels=24, output_maps=["p4"], name="seen")]).towers
    assert (tower.base_channels, list(tower.output_maps), tower.name) == (24, ["p4"], "seen")


@pytest.mark.parametrize("side", [64, 65, 97])
def test_channels_and_cells_are_known_without_running(side):
    detections = {**YOLOX, "output_maps": ["p3", "p5", "classes", "boxes", "detections"]}
    eva02, sam = PixelLLMConfig.for_tests().to_dict()["vision_config"]["towers"]
    whole = {**LITE, "output_maps": [*(f"stage{number}" for number in range(1, 8)), "head"]}
    config = vision(image_size=side, towers=[eva02, sam, whole, {**detections, "input_size": 40}])
    with torch.no_grad():
        features = VisionTowers(config).eval()(torch.rand(1, 3, side, side) * 255)
    assert {name: (m.shape[-1], m.shape[1]) for name, m in features.maps.items()} == config.map_shapes
    assert features.fused.shape == (1, config.grid_size, config.grid_size, config.feature_channels)


def test_the_fused_map_is_what_the_config_says():
    torch.manual_seed(0)
    config = vision(fused_maps=["where.p5", "what.stage4"], fused_grid_size=3)
    with torch.no_grad():
        features = VisionTowers(config).eval()(torch.rand(1, 3, 64, 64) * 255)
    expected = [resize_map(features[name], (3, 3)) for name in ("where.p5", "what.stage4")]
    torch.testing.assert_close(features["fused"], torch.cat(expected, dim=-1), atol=0, rtol=0)
    assert config.grid_size == 3


def test_a_tower_may_see_the_canvas_at_a_size_of_its_own():
    torch.manual_seed(0)
    towers = VisionTowers(vision(towers=[{**LITE, "input_size": 32}])).eval()
    with torch.no_grad():
        even = torch.full((1, 3, 64, 64), 90.0)
        small = VisionTowers(vision(image_size=32, towers=[LITE])).eval()
        small.load_state_dict(towers.state_dict())
        torch.testing.assert_close(towers(even).fused, small(even[..., :32, :32]).fused)


def test_masks_are_made_from_the_map_that_the_config_names():
    torch.manual_seed(0)
    heads = dict(mask_head_config=PixelLLMConfig.for_tests().to_dict()["mask_head_config"], proposal_head_config=None)
    pixels = torch.rand(1, 3, 64, 64) * 255
    for mask_map, cells in (("where.p3", 8), ("where.p5", 2), ("fused", 4)):
        config = PixelLLMConfig.for_tests(vision_config=vision(mask_map=mask_map, fused_grid_size=4), **heads)
        model = PixelLLMForGroundedGeneration(config).eval()
        found = model.generate(pixel_values=pixels, max_new_tokens=3, output_masks=True)
        assert found.masks.shape == (1, 4 * cells, 4 * cells)
    with torch.no_grad():
        model.mask_head.map_projection.weight.zero_()
    blind = model.generate(pixel_values=pixels, max_new_tokens=3, output_masks=True)
    assert not torch.equal(blind.masks, found.masks)


def test_lite_variants_have_the_published_sizes():
    lite4 = PixelLLMEfficientNetLiteTowerConfig.lite(4)
    assert list(lite4.stage_channels) == [24, 32, 56, 112, 160, 272, 448]
    assert list(lite4.stage_depths) == [1, 4, 4, 6, 6, 8, 1]
    assert (
        PixelLLMEfficientNetLiteTowerConfig.lite(0).to_dict()
        == PixelLLMEfficientNetLiteTowerConfig(
            stage_channels=[16, 24, 40, 80, 112, 192, 320], stage_depths=[1, 2, 2, 3, 3, 4, 1]
        ).to_dict()
    )


def test_the_photo_preset_reads_public_towers_and_stays_within_thirty_million_parameters():
    config = PixelLLMConfig.photo()
    with torch.device("meta"):
        model = PixelLLMForGroundedGeneration(config)
    assert model.num_parameters() <= 30_000_000
    assert all(tower.frozen for tower in config.vision_config.towers)


@pytest.mark.parametrize("family", [T5Config, MT5Config])
def test_a_plain_t5_config_is_a_language_model(family):
    sizes = dict(vocab_size=99, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4)
    text = family(**sizes)
    before = text.to_dict()
    model = PixelLLMForGroundedGeneration(PixelLLMConfig.for_tests(text_config=text)).eval()
    assert model.config.text_config.decoder_start_token_id == 0
    assert text.to_dict() == before
    pixels = torch.rand(1, 3, 64, 64) * 255
    assert model.generate(pixel_values=pixels, max_new_tokens=3).sequences.shape == (1, 4)
    assert model(pixel_values=pixels, labels=torch.tensor([[5, 6, 1]])).loss.isfinite()


@pytest.mark.parametrize("options", [{}, {"num_beams": 2}, {"cache_implementation": "static"}])
@pytest.mark.parametrize("depths", [(1, 3), (3, 1)])
def test_encoder_and_decoder_may_differ_in_depth(depths, options):
    torch.manual_seed(0)
    sizes = dict(vocab_size=99, d_model=32, d_kv=8, d_ff=48, num_heads=4, num_layers=depths[0])
    text = T5Config(num_decoder_layers=depths[1], **sizes)
    model = PixelLLMForGroundedGeneration(PixelLLMConfig.for_tests(text_config=text)).eval()
    inputs = dict(pixel_values=torch.rand(1, 3, 64, 64) * 255, max_new_tokens=5, eos_token_id=None, **options)
    cached = model.generate(**inputs)
    plain = model.generate(**{**inputs, "cache_implementation": None}, use_cache=False)
    assert torch.equal(cached.sequences, plain.sequences)
    torch.testing.assert_close(cached.coordinates, plain.coordinates, atol=1e-5, rtol=1e-4, equal_nan=True)
    assert model.config.text_config.num_layers == depths[0]


FOREIGN = [BartConfig(), MambaConfig(), {"model_type": "bert"}, {"model_type": "llava"}, {"model_type": "nonsense"}]


@pytest.mark.parametrize("text", FOREIGN)
def test_a_language_model_of_a_foreign_family_is_refused_with_what_is_supported(text):
    with pytest.raises(ValueError, match="no language model.*t5, mt5, umt5, pixelllm_prefix_decoder"):
        PixelLLMConfig.for_tests(text_config=text)


def test_of_a_model_of_several_parts_the_language_model_is_asked_for():
    with pytest.raises(ValueError, match="'gemma3' is a model of several parts.*'gemma3_text'"):
        PixelLLMConfig.for_tests(text_config={"model_type": "gemma3"})


@pytest.mark.parametrize(
    "part", ["vision_config", "prompt_config", "point_head_config", "mask_head_config", "codebook_config"]
)
@pytest.mark.parametrize("given", [T5Config(), {"model_type": "t5"}], ids=["config", "dict"])
def test_a_part_of_another_kind_is_refused_by_name(part, given):
    with pytest.raises(ValueError, match=f"{part} must be a config of model_type 'pixelllm_.*one of 't5'"):
        PixelLLMConfig.for_tests(**{part: given})


def test_a_t5_that_does_not_say_how_it_starts_is_refused():
    with pytest.raises(ValueError, match="decoder_start_token_id nor pad_token_id"):
        PixelLLMConfig.for_tests(text_config=T5Config(pad_token_id=None))


def test_a_folder_with_public_towers_carries_their_notice_and_keeps_what_was_there(tmp_path):
    heads = dict(mask_head_config=None, proposal_head_config=None)
    PixelLLMForGroundedGeneration(PixelLLMConfig.for_tests(**heads)).save_pretrained(tmp_path)
    assert not (tmp_path / "NOTICE").exists()
    (tmp_path / "NOTICE").write_text("Mine.\n")
    model = PixelLLMForGroundedGeneration(PixelLLMConfig.for_tests(vision_config=vision(), **heads))
    for _ in range(2):
        model.save_pretrained(tmp_path)
        notice = (tmp_path / "NOTICE").read_text()
        assert notice.startswith("Mine.\n")
        assert notice.count(PixelLLMEfficientNetLiteTowerConfig.weights_notice) == 1
        assert notice.count(PixelLLMYoloxTowerConfig.weights_notice) == 1
    assert not PixelLLMSamTowerConfig.weights_notice
