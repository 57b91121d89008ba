from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pixelllm_hf.conversion.parity.golden import Golden
from pixelllm_hf.conversion.scenic import convert_module
from pixelllm_hf.conversion.scenic_hparams import point_head_config
from pixelllm_hf.modeling.configuration_heads import PixelLLMPointHeadConfig
from pixelllm_hf.modeling.point_head import PointHead

GOLDEN = Path(__file__).parents[1] / "golden" / "pixelllm" / "point_predictor.safetensors"


@pytest.fixture
def golden() -> Golden:
    return Golden.read(GOLDEN)


@pytest.fixture
def head(golden) -> PointHead:
    head = PointHead(point_head_config(golden.hparams), golden.inputs["text_feats"].shape[-1]).eval()
    head.load_state_dict(convert_module("point_predictor", golden.params))
    return head


def test_places_and_logits_equal_the_reference(golden, head):
    output = head(golden.inputs["text_feats"])
    torch.testing.assert_close(output.coordinates, golden.outputs["point_coords_rel"], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(output.logits, golden.outputs["point_logits"], atol=1e-5, rtol=1e-5)


def test_places_are_fractions_of_the_unpadded_image(golden, head):
    sizes_wh = golden.inputs["image_shape_hw"].flip(-1)[:, None, None, None]
    pixels = head(golden.inputs["text_feats"]).coordinates * sizes_wh
    torch.testing.assert_close(pixels, golden.outputs["point_coords_abs"], atol=1e-3, rtol=1e-5)


def test_autocast_does_not_move_a_place(golden, head):
    states = golden.inputs["text_feats"]
    with torch.autocast("cpu", torch.bfloat16):
        places = head(states).coordinates
    assert places.dtype == torch.float32
    assert torch.equal(places, head(states).coordinates)


def test_a_head_kept_in_half_precision_still_computes_in_float32(golden, head):
    states = golden.inputs["text_feats"].bfloat16()
    halved = head.bfloat16()
    places = halved(states).coordinates
    assert places.dtype == torch.float32
    assert torch.equal(places, halved.float()(states.float()).coordinates)  # the same rounded weights


def test_places_may_leave_the_image_while_training():
    head = PointHead(PixelLLMPointHeadConfig(hidden_size=8), 12)
    torch.nn.init.constant_(head.mlp.layers[-1].bias, 3.0)
    torch.nn.init.zeros_(head.mlp.layers[-1].weight)
    assert torch.equal(head(torch.randn(2, 5, 12)).coordinates, torch.full((2, 5, 2, 2), 2.0))


@pytest.mark.parametrize("points", [1, 2, 4])
def test_the_config_says_how_many_points_a_token_has(points):
    head = PointHead(PixelLLMPointHeadConfig(hidden_size=8, points_per_token=points, num_classes=3), 12)
    output = head(torch.randn(2, 5, 12))
    assert output.coordinates.shape == (2, 5, points, 2)
    assert output.logits.shape == (2, 5, points, 4)
