from __future__ import annotations

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pixelllm_hf.modeling.configuration_towers import PixelLLMEfficientNetLiteTowerConfig, PixelLLMYoloxTowerConfig
from pixelllm_hf.modeling.configuration_vision import PixelLLMVisionConfig
from pixelllm_hf.modeling.vision_convolutions import ConvNorm, TowerConv2d
from pixelllm_hf.modeling.vision_efficientnet_lite import EfficientNetLiteTower
from pixelllm_hf.modeling.vision_towers import VisionTowers
from pixelllm_hf.modeling.vision_yolox import YoloxTower, box_map, class_map, decode_boxes, quarters, surest


def lite(**overrides) -> PixelLLMEfficientNetLiteTowerConfig:
    return PixelLLMEfficientNetLiteTowerConfig(
        **{
            **dict(stem_channels=8, stage_channels=[8, 8, 12], stage_depths=[1, 2, 1], stage_strides=[1, 2, 2]),
            **dict(stage_kernels=[3, 5, 3], head_channels=16, output_maps=["stage2", "head"], name="what"),
            **overrides,
        }
    )


def yolox(**overrides) -> PixelLLMYoloxTowerConfig:
    return PixelLLMYoloxTowerConfig(**{"base_channels": 4, "num_classes": 3, "name": "where", **overrides})


def towers(*configs, image_size: int = 64) -> VisionTowers:
    torch.manual_seed(0)
    towers = VisionTowers(PixelLLMVisionConfig(image_size=image_size, towers=configs))
    for module in towers.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
    return towers


def pixels(images: int = 2, side: int = 64) -> torch.Tensor:
    return torch.rand(images, 3, side, side, generator=torch.Generator().manual_seed(1)) * 255


def test_a_folded_norm_is_the_norm_after_the_convolution():
    torch.manual_seed(0)
    part = ConvNorm(TowerConv2d(4, 6, 3, stride=2, bias=False, tensorflow_padding=True), eps=1e-3).eval()
    nn.init.normal_(part.norm.running_mean)
    nn.init.uniform_(part.norm.running_var, 0.1, 2.0)
    nn.init.normal_(part.norm.weight)
    x = torch.randn(2, 4, 9, 8)
    torch.testing.assert_close(part(x), part.norm(part.conv(x)), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("size_hw", [(8, 8), (9, 8), (7, 11)])
@pytest.mark.parametrize("kernel", [3, 5])
def test_tensorflows_padding_puts_the_odd_pixel_last(size_hw, kernel):
    conv = TowerConv2d(1, 1, kernel, stride=2, bias=False, tensorflow_padding=True)
    nn.init.ones_(conv.weight)
    given = conv(torch.ones(1, 1, *size_hw))
    for axis, size in enumerate(size_hw):
        cells = -(-size // 2)
        before = max((cells - 1) * 2 + kernel - size, 0) // 2
        covered = [sum(0 <= 2 * i - before + k < size for k in range(kernel)) for i in range(cells)]
        along = given[0, 0].amax(1 - axis)
        assert (along / along.max() * max(covered)).round().tolist() == covered


def test_tuned_towers_learn_but_their_statistics_never_change():
    seen = towers(lite(), yolox()).train()
    before = {name: value.clone() for name, value in seen.state_dict().items() if "running" in name or "num_b" in name}
    seen(pixels()).fused.square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in seen.what.parameters())
    assert all(p.grad.abs().sum() > 0 for p in seen.where.parameters())
    assert before and all(torch.equal(seen.state_dict()[name], value) for name, value in before.items())


def test_training_mode_changes_no_map():
    seen = towers(lite(), yolox())
    with torch.no_grad():
        torch.testing.assert_close(seen.train()(pixels()).fused, seen.eval()(pixels()).fused, atol=0, rtol=0)


def test_each_tower_is_frozen_or_tuned_by_itself():
    seen = towers(lite(frozen=True), yolox()).train()
    seen(pixels()).fused.mean().backward()
    assert all(p.grad is None and not p.requires_grad for p in seen.what.parameters())
    assert all(p.grad is not None for p in seen.where.parameters())
    assert not seen.what.training and seen.where.training


def test_looking_leaves_the_weights_as_they_are_saved():
    seen = towers(lite(), yolox()).eval()
    before = {name: value.clone() for name, value in seen.state_dict().items()}
    seen(pixels())
    assert all(torch.equal(value, before[name]) for name, value in seen.state_dict().items())


def test_padding_is_what_each_tower_was_trained_with():
    """Grey 127 for EfficientNet-Lite, whose normalised pixels are then 0, and grey 114 for YOLOX."""
    mask = torch.ones(1, 64, 64, dtype=torch.bool)
    mask[:, 40:] = False
    for config, grey in ((lite(), 127.0), (yolox(), 114.0)):
        seen = towers(config).eval()
        image = pixels(1)
        painted = image.clone()
        painted[:, :, 40:] = grey
        with torch.no_grad():
            torch.testing.assert_close(seen(image, mask).fused, seen(painted).fused)


def test_maps_do_not_depend_on_neighbours_in_the_batch():
    seen = towers(lite(), yolox(output_maps=["p4", "classes", "detections"])).eval()
    with torch.no_grad():
        both, alone = seen(pixels()), seen(pixels()[1:])
    for name, image_map in alone.maps.items():
        torch.testing.assert_close(both[name][1:], image_map, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_half_precision_sees_nearly_the_same(half):
    seen = towers(lite(), yolox(output_maps=["p4", "classes", "boxes"])).eval()
    with torch.no_grad():
        exact, rough = seen(pixels()), seen.to(half)(pixels())
    assert rough.fused.dtype == half
    for name in ("what.head", "where.p4", "where.classes"):
        assert (rough[name].float() - exact[name]).abs().max() < 0.1 * exact[name].abs().max()


def test_gradient_checkpointing_changes_nothing():
    for config, tower_class in ((lite(), EfficientNetLiteTower), (yolox(), YoloxTower)):
        gradients = []
        for checkpointed in (False, True):
            torch.manual_seed(0)
            tower = tower_class(config).train()
            for module in tower.modules():
                if hasattr(module, "gradient_checkpointing"):
                    module.gradient_checkpointing = checkpointed
                    module._gradient_checkpointing_func = partial(
                        torch.utils.checkpoint.checkpoint, use_reentrant=False
                    )
            maps = tower((pixels() - 114) / 64)
            sum(image_map.square().mean() for image_map in maps.values()).backward()
            gradients.append([p.grad for p in tower.parameters() if p.grad is not None])
        assert gradients[0] and all(torch.allclose(a, b, rtol=1e-4) for a, b in zip(*gradients, strict=True))


def test_quarters_are_the_four_pixels_of_every_two_by_two():
    x = torch.arange(12.0).view(1, 1, 3, 4)
    assert quarters(x)[0, :, 0, 0].tolist() == [0, 4, 1, 5]
    assert quarters(x)[0, :, 1, 1].tolist() == [10, 0, 11, 0]  # the missing row is 0
    assert quarters(torch.stack([x[0], x[0] + 100], 1).view(1, 2, 3, 4))[0, :, 0, 0].tolist() == [
        0,
        100,
        4,
        104,
        1,
        101,
        5,
        105,
    ]


def test_boxes_are_shares_of_the_canvas():
    answers = torch.zeros(1, 5 + 2, 4, 6)
    answers[0, :4, 1, 2] = torch.tensor([0.5, 0.25, 0.0, torch.tensor(2.0).log()])
    answers[0, 4:, 1, 2] = torch.tensor([0.9, 0.1, 0.8])
    found = decode_boxes(answers, 8, (32, 48))[0, :, 1, 2]
    centre_x, centre_y, width, height = 2.5 * 8, 1.25 * 8, 8, 16
    expected = [(centre_x - width / 2) / 48, (centre_y - height / 2) / 32, (centre_x + width / 2) / 48, 18 / 32]
    torch.testing.assert_close(found[:4], torch.tensor(expected))
    assert found[4:].tolist() == pytest.approx([0.9, 0.1, 0.8])


def test_the_class_map_takes_the_surest_level():
    fine, middle, coarse = (torch.zeros(1, 5 + 2, side, side) for side in (4, 2, 1))
    for level in (fine, middle, coarse):
        level[:, 4] = 0.5
    fine[0, 5, 1, 2] = 0.5  # a cell of the upper right quarter
    middle[0, 5, 1, 0] = 0.32
    coarse[0, 6] = 0.02
    found = class_map([fine, middle, coarse], (2, 2))[0]
    torch.testing.assert_close(found[0], torch.tensor([[1e-6, 0.5], [0.4, 1e-6]]))
    torch.testing.assert_close(found[1], torch.full((2, 2), 0.1))


def test_a_cell_tells_of_its_surest_box_alone():
    fine, coarse = torch.zeros(1, 5 + 2, 2, 2), torch.zeros(1, 5 + 2, 1, 1)
    fine[0, :, 0, 0] = torch.tensor([0.1, 0.1, 0.3, 0.3, 0.5, 0.0, 0.5])  # centre in the upper left cell
    fine[0, :, 0, 1] = torch.tensor([-0.2, 0.0, 0.6, 0.4, 0.8, 0.8, 0.0])  # there too, and surer
    fine[0, :, 1, 0] = torch.tensor([0.6, 0.6, 1.0, 1.2, 0.1, 0.1, 0.2])  # too unsure
    coarse[0, :, 0, 0] = torch.tensor([0.4, 0.7, 0.8, 0.9, 1.0, 0.25, 0.0])
    cells = torch.cat([fine.flatten(2), coarse.flatten(2)], dim=2).transpose(1, 2)
    found = box_map(cells, (2, 2))[0]
    torch.testing.assert_close(found[:, 0, 0], torch.tensor([-2.0, -2.0, 0.4, -0.4, 1.6, 1.0]))
    torch.testing.assert_close(found[:, 1, 1], torch.tensor([-0.4, 0.8, 1.2, 1.6, 1.0, 1.0]))
    assert not found[:, 0, 1].any() and not found[:, 1, 0].any()
    assert not box_map(cells, (2, 2), most=1)[0, :, 1, 1].any()


def test_the_surest_answers_come_best_first_and_zeros_fill_the_grid():
    answers = torch.tensor([[0.0, 0, 1, 1, 0.5, 0.2, 0.4], [0, 0, 2, 2, 0.9, 0.9, 0.0], [0, 0, 3, 3, 0.1, 0.1, 0.1]])[
        None
    ]
    grid = surest(answers, (2, 2))
    assert grid[0, 2].tolist() == [[2, 1], [3, 0]] and not grid[0, :, 1, 1].any()
    assert surest(answers, (1, 2))[0, 2].tolist() == [[2, 1]]


def test_all_cells_answer_and_the_detections_are_the_surest_of_them():
    tower = YoloxTower(yolox(output_maps=["p4", "detections"])).eval()
    with torch.no_grad():
        answers, maps = tower.detect(pixels()), tower(pixels())
    assert answers.shape[1] == 8 * 8 + 4 * 4 + 2 * 2
    scores = answers[..., 4] * answers[..., 5:].amax(-1)
    kept = maps["detections"].flatten(1, 2)
    torch.testing.assert_close(kept[..., 4] * kept[..., 5:].amax(-1), scores.sort(descending=True).values[:, :16])
    with pytest.raises(ValueError, match="output_maps"):
        YoloxTower(yolox()).detect(pixels())


def test_the_detectors_head_is_built_only_if_it_is_asked_for():
    assert YoloxTower(yolox()).head is None
    assert YoloxTower(yolox(output_maps=["p3", "detections"])).head is not None


def test_new_towers_pass_on_what_they_see():
    torch.manual_seed(0)
    maps = EfficientNetLiteTower(PixelLLMEfficientNetLiteTowerConfig())((pixels(1) - 127) / 128)
    assert all(image_map.std() > 0.05 for image_map in maps.values())
    assert F.relu6(maps["head"]).equal(maps["head"])
