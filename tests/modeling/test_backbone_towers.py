"""What a user relies on, whatever the backbone and the language model."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from torch import nn
from transformers import Dinov2Config, ResNetConfig, TimmBackboneConfig

from pixelllm_hf.modeling.configuration_pixelllm import PixelLLMConfig
from pixelllm_hf.modeling.configuration_towers import PixelLLMBackboneTowerConfig
from pixelllm_hf.modeling.configuration_vision import PixelLLMVisionConfig
from pixelllm_hf.modeling.modeling_pixelllm import PixelLLMForGroundedGeneration
from pixelllm_hf.modeling.vision_towers import VisionTowers

TRANSFORMER = dict(hidden_size=24, num_hidden_layers=2, num_attention_heads=2)
WINDOWS = dict(image_size=64, pretrain_image_size=64, window_size=2, window_block_indices=[0])
BACKBONES = {
    "dinov2": dict(**TRANSFORMER, patch_size=14, image_size=42, out_features=["stage1", "stage2"]),
    "swin": dict(embed_dim=8, depths=[1, 1, 1], num_heads=[1, 2, 2], window_size=4, out_features=["stage2", "stage3"]),
    "convnext": dict(hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 1, 1], out_features=["stage3", "stage4"]),
    "vitdet": dict(**TRANSFORMER, **WINDOWS, patch_size=16),
    "resnet": dict(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic"),
}
LITE = dict(model_type="pixelllm_efficientnet_lite_tower", output_maps=["stage2"])
SAM = PixelLLMConfig.for_tests().to_dict()["vision_config"]["towers"][1]
PREFIX = dict(model_type="pixelllm_prefix_decoder", vocab_size=99, hidden_size=32, num_hidden_layers=2)
LANGUAGES = {
    "t5": PixelLLMConfig.for_tests().to_dict()["text_config"],
    "prefix_decoder": PREFIX
    | dict(num_attention_heads=4, intermediate_size=48, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1),
}
COMPANY = {"alone": [], "beside a convolutional tower": [LITE], "in the place of eva02": [SAM]}


def backbone(model_type: str, **settings) -> dict:
    return {"model_type": model_type, **BACKBONES[model_type], **settings}


def make(towers: list, language: str = "t5", **overrides) -> PixelLLMForGroundedGeneration:
    torch.manual_seed(0)
    vision = PixelLLMVisionConfig(image_size=64, towers=towers)
    config = PixelLLMConfig.for_tests(vision_config=vision, text_config=dict(LANGUAGES[language]), **overrides)
    return PixelLLMForGroundedGeneration(config)


def inputs(images: int = 2) -> dict[str, torch.Tensor]:
    mask = torch.ones(images, 64, 64, dtype=torch.bool)
    mask[0, 48:] = False
    generator = torch.Generator().manual_seed(1)
    return {"pixel_values": torch.rand(images, 3, 64, 64, generator=generator) * 255, "pixel_mask": mask}


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("company", COMPANY)
@pytest.mark.parametrize("model_type", BACKBONES)
def test_a_model_writes_points_learns_and_is_saved(model_type, company, language, tmp_path):
    model = make([backbone(model_type), *COMPANY[company]], language)
    labels = torch.tensor([[5, 6, 7], [8, 9, -100]])
    points = torch.rand(2, 3, 2, 2, generator=torch.Generator().manual_seed(2))
    model.train()(**inputs(), labels=labels, point_labels=points).loss.backward()
    learning = [p for p in model.vision_towers.get_submodule(model_type).parameters() if p.grad is not None]
    assert learning and any(p.grad.abs().sum() > 0 for p in learning)

    model.eval()
    shapes = model.config.vision_config.map_shapes
    features = model.get_image_features(**inputs())
    assert {name: (m.shape[-1], m.shape[1]) for name, m in features.maps.items()} == shapes
    written = model.generate(**inputs(), max_new_tokens=5, output_masks=True)
    assert written.coordinates.shape == (*written.sequences.shape, 2, 2)
    alone = model.generate(**{name: value[1:] for name, value in inputs().items()}, max_new_tokens=5, output_masks=True)
    length = min(alone.sequences.shape[1], written.sequences.shape[1])
    assert torch.equal(alone.sequences[0, :length], written.sequences[1, :length])
    torch.testing.assert_close(alone.masks[0], written.masks[1], atol=1e-3, rtol=1e-3, equal_nan=True)

    model.save_pretrained(tmp_path)
    again = PixelLLMForGroundedGeneration.from_pretrained(tmp_path).eval()
    assert again.config.vision_config.map_shapes == shapes
    torch.testing.assert_close(again.get_image_features(**inputs()).fused, features.fused, atol=0, rtol=0)
    assert torch.equal(again.generate(**inputs(), max_new_tokens=5).sequences, written.sequences)


@pytest.mark.parametrize("model_type", BACKBONES)
def test_a_frozen_backbone_gets_no_gradients_and_repeats_itself_under_train(model_type):
    towers = make([backbone(model_type, frozen=True), LITE]).vision_towers.train()
    assert not any(p.requires_grad for p in towers.get_submodule(model_type).parameters())
    torch.testing.assert_close(towers(**inputs()).fused, towers(**inputs()).fused, atol=0, rtol=0)


def test_batch_norms_of_a_tuned_backbone_keep_their_statistics():
    towers = make([backbone("resnet")]).vision_towers.train()
    norms = [module for module in towers.modules() if isinstance(module, nn.BatchNorm2d)]
    before = [norm.running_mean.clone() for norm in norms]
    towers(**inputs()).fused.sum().backward()
    assert norms and all(torch.equal(norm.running_mean, old) for norm, old in zip(norms, before, strict=True))
    assert all(norm.weight.grad is not None for norm in norms[:-1])


@pytest.mark.parametrize("model_type", ["dinov2", "swin", "convnext"])
def test_half_precision_answers_too(model_type):
    model = make([backbone(model_type), LITE]).to(torch.bfloat16).eval()
    written = model.generate(**inputs(), max_new_tokens=3, output_masks=True)
    assert written.sequences.shape[0] == 2 and written.masks.shape[0] == 2


def test_a_backbone_may_be_given_as_its_own_config_and_keeps_it(tmp_path):
    given = Dinov2Config(**BACKBONES["dinov2"])
    vision = PixelLLMVisionConfig(image_size=64, towers=[given])
    (tower,) = vision.towers
    assert isinstance(tower, PixelLLMBackboneTowerConfig) and tower.backbone_config.to_dict() == given.to_dict()
    named = PixelLLMVisionConfig(
        image_size=64, towers=[PixelLLMBackboneTowerConfig(backbone_config=given, name="what", frozen=True)]
    )
    assert named.map_names == ["what.stage1", "what.stage2"] and named.towers[0].frozen


def test_a_dinov2_config_in_the_place_of_eva02_builds_a_dinov2():
    vision = PixelLLMVisionConfig(image_size=64, eva02_config=Dinov2Config(**BACKBONES["dinov2"]), sam_config=SAM)
    with torch.no_grad():
        towers = VisionTowers(vision)
    assert sum(p.numel() for p in towers.parameters()) < 100_000
    assert vision.fused_maps == ["dinov2.stage1", "dinov2.stage2", "sam"]


def test_a_backbone_can_be_made_of_transformers_own_defaults():
    with torch.device("meta"):
        towers = VisionTowers(PixelLLMVisionConfig(image_size=64, towers=[{"model_type": "convnext"}]))
    assert towers.config.map_names == ["convnext"]


def test_a_backbone_of_timm_is_refused_where_timm_is_not_and_where_it_has_no_name(monkeypatch):
    from pixelllm_hf.modeling import vision_backbone

    with pytest.raises(ValueError, match="which of timm's models it is"):
        PixelLLMVisionConfig(image_size=64, towers=[{"model_type": "timm_backbone"}])
    monkeypatch.setattr(vision_backbone, "is_timm_available", lambda: False)
    named = dict(backbone="resnet18", out_indices=[1, 2])
    for tower in (TimmBackboneConfig(**named), {"model_type": "timm_backbone", **named}):
        with pytest.raises(ImportError, match=r"'resnet18' .*timm, which is not installed.*pip install timm"):
            PixelLLMVisionConfig(image_size=64, towers=[tower])


STAND_IN = """
import torch

class _Info:
    def __init__(self, out_indices):
        self.info = [dict(module=f"layer{i}", num_chs=4 * 2**i, reduction=8 * 2**i, index=i) for i in range(3)]
        self.out_indices = tuple(i % 3 for i in out_indices)
    def module_name(self):
        return [self.info[i]["module"] for i in self.out_indices]
    def get_dicts(self):
        return [self.info[i] for i in self.out_indices]

class _Model(torch.nn.Module):
    def __init__(self, out_indices, channels_last):
        super().__init__()
        self.feature_info, self.channels_last = _Info(out_indices), channels_last
        self.layers = torch.nn.ModuleList(torch.nn.Conv2d(3, 4 * 2**i, 8 * 2**i, 8 * 2**i) for i in range(3))
    def forward(self, x):
        maps = [self.layers[i](x) for i in self.feature_info.out_indices]
        return [m.permute(0, 2, 3, 1) for m in maps] if self.channels_last else maps

def create_model(name, pretrained=False, features_only=True, in_chans=3, out_indices=(-1,), output_stride=None, **kw):
    if name not in ("net", "net_last"):
        raise RuntimeError(f"Unknown model ({name})")
    return _Model(out_indices, name == "net_last")
"""
PROGRAM = """
import sys, torch, transformers.utils
from transformers.utils import import_utils
transformers.utils.is_timm_available = import_utils.is_timm_available = lambda: True
import_utils.BACKENDS_MAPPING["timm"] = (import_utils.is_timm_available, "")
from transformers import TimmBackboneConfig
from pixelllm_hf import PixelLLMConfig, PixelLLMForGroundedGeneration
pixels = torch.rand(1, 3, 64, 64) * 255
for name in ("net", "net_last"):
    given = dict(model_type="timm_backbone", backbone=name, out_indices=[1, 2], frozen=True)
    sam = PixelLLMConfig.for_tests().vision_config.towers[1]
    vision = {"image_size": 64, "towers": [given, sam]}
    config = PixelLLMConfig.for_tests(vision_config=vision, proposal_head_config=None)
    assert config.vision_config.map_shapes["timm_backbone.layer2"] == (16, 2), config.vision_config.map_shapes
    model = PixelLLMForGroundedGeneration(config).eval()
    fused = model.get_image_features(pixels).fused
    assert len(model.generate(pixel_values=pixels, max_new_tokens=2).sequences) == 1
    model.save_pretrained(sys.argv[1])
    again = PixelLLMForGroundedGeneration.from_pretrained(sys.argv[1]).eval()
    assert torch.equal(again.get_image_features(pixels).fused, fused)
try:
    PixelLLMConfig.for_tests(vision_config={"image_size": 64, "towers": [TimmBackboneConfig(backbone="none")]})
except ValueError as error:
    assert "timm makes no backbone of 'none': Unknown model" in str(error), error
print("done")
"""


def test_timms_models_are_towers_by_their_names_there(tmp_path):
    """With a stand-in for timm, which wants torchvision."""
    (tmp_path / "timm").mkdir()
    (tmp_path / "timm" / "__init__.py").write_text(STAND_IN)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *filter(None, sys.path)])}
    program = [sys.executable, "-c", PROGRAM, str(tmp_path / "saved")]
    done = subprocess.run(program, env=environment, capture_output=True, text=True, timeout=300)
    assert done.stdout.strip().endswith("done"), done.stderr[-3000:]


def test_two_backbones_of_one_kind_need_names():
    with pytest.raises(ValueError, match="a name of its own"):
        PixelLLMVisionConfig(image_size=64, towers=[backbone("swin"), backbone("swin")])
    both = PixelLLMVisionConfig(image_size=64, towers=[backbone("swin"), backbone("swin", name="other", input_size=32)])
    assert both.map_shapes["swin.stage2"] == (16, 8) and both.map_shapes["other.stage2"] == (16, 4)


def test_a_backbone_that_gives_no_maps_is_refused_with_the_reason():
    flat = Dinov2Config(**BACKBONES["dinov2"], reshape_hidden_states=False)
    with pytest.raises(ValueError, match="'dinov2' gives no maps of 64 x 64 pixels.*reshape_hidden_states"):
        make([flat])


def test_images_are_normalised_as_the_tower_asks():
    config = ResNetConfig(**BACKBONES["resnet"])
    torch.manual_seed(0)
    plain = VisionTowers(PixelLLMVisionConfig(image_size=64, towers=[config])).eval()
    other = PixelLLMBackboneTowerConfig(backbone_config=config, image_mean=[0.0] * 3, image_std=[255.0] * 3)
    shifted = VisionTowers(PixelLLMVisionConfig(image_size=64, towers=[other])).eval()
    shifted.load_state_dict(plain.state_dict())
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in ([123.675, 116.28, 103.53], [58.395, 57.12, 57.375]))
    pixels = inputs()["pixel_values"]
    with torch.no_grad():
        seen = shifted((pixels - mean) / std * 255).fused
        torch.testing.assert_close(plain(pixels).fused, seen, atol=1e-4, rtol=1e-4)
