from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from pixelllm_hf.conversion.parity.golden import Golden
from pixelllm_hf.conversion.scenic import convert_module
from pixelllm_hf.conversion.scenic_hparams import prompt_config
from pixelllm_hf.modeling.configuration_pixelllm import PixelLLMPromptConfig
from pixelllm_hf.modeling.prompt_encoder import PromptEncoder, box_corners

GOLDEN = Path(__file__).parents[1] / "golden" / "pixelllm" / "prompt_encoder.safetensors"
CANVAS_HW = (64, 64)


@pytest.fixture
def golden() -> Golden:
    return Golden.read(GOLDEN)


@pytest.fixture
def reference(golden) -> PromptEncoder:
    encoder = PromptEncoder(prompt_config({}, golden.hparams)).eval()
    encoder.load_state_dict(convert_module("prompt_encoder", golden.params))
    return encoder


@pytest.fixture
def encoder() -> PromptEncoder:
    torch.manual_seed(0)
    encoder = PromptEncoder(PixelLLMPromptConfig(embed_dim=16)).eval()
    torch.nn.init.normal_(encoder.pe_layer.positional_encoding_gaussian_matrix)
    return encoder


def encode(encoder: PromptEncoder, boxes: Tensor, *given: Tensor) -> Tensor:
    with torch.no_grad():
        return encoder(boxes, *given, image_size_hw=CANVAS_HW)


def test_points_equal_the_reference(golden, reference):
    points, labels, size_hw = golden.inputs["points"], golden.inputs["labels"], tuple(golden.hparams["image_size"])
    for pad, name in ((True, "points_padded"), (False, "points_unpadded")):
        tokens = reference.embed_points(points, labels, image_size_hw=size_hw, pad=pad)
        torch.testing.assert_close(tokens, golden.outputs[name], atol=1e-5, rtol=1e-5)


def test_boxes_equal_the_reference(golden, reference):
    tokens = reference.embed_boxes(golden.inputs["boxes"], image_size_hw=tuple(golden.hparams["image_size"]))
    torch.testing.assert_close(tokens, golden.outputs["boxes"], atol=1e-5, rtol=1e-5)


def test_positions_of_a_grid_equal_the_reference(golden, reference):
    positions = reference.dense_positions(*golden.hparams["dense_pe_size"])
    torch.testing.assert_close(positions, golden.outputs["dense_pe"], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(reference.no_mask, golden.outputs["no_mask"])


def test_a_box_is_its_corners_and_no_mask_tokens(encoder):
    boxes = torch.tensor([[[3.0, 5, 20, 40]]])
    tokens = encode(encoder, boxes)
    torch.testing.assert_close(tokens[..., :2, :], encoder.embed_boxes(boxes, image_size_hw=CANVAS_HW))
    assert torch.equal(tokens[0, 0, 2:], encoder.no_mask.expand(3, -1))


def test_a_zero_box_without_points_is_its_four_corner_points(encoder):
    corners = torch.zeros(1, 1, 4, 2)
    labels = torch.ones(1, 1, 4, dtype=torch.long)
    expected = encoder.embed_points(corners, labels, image_size_hw=CANVAS_HW, pad=True)
    torch.testing.assert_close(encode(encoder, torch.zeros(1, 1, 4)), expected)


def test_points_and_boxes_may_stand_next_to_each_other(encoder):
    boxes = torch.tensor([[[3.0, 5, 20, 40], [0, 0, 0, 0]]])
    points = torch.tensor([[[[9.0, 9], [1, 1]], [[30, 31], [8, 2]]]])
    labels = torch.tensor([[[1, 1], [1, 0]]])
    tokens = encode(encoder, boxes, points, labels)
    torch.testing.assert_close(tokens[:, :1], encode(encoder, boxes[:, :1]))  # the box has the word
    torch.testing.assert_close(tokens[:, 1:], encode(encoder, boxes[:, 1:], points[:, 1:], labels[:, 1:]))
    assert tokens.shape == (1, 2, 5, 16)


def test_points_that_are_missing_and_points_that_are_marked_so_mean_the_same(encoder):
    zero = torch.zeros(1, 1, 4)
    points = torch.tensor([[[[9.0, 9], [50, 50], [17, 3], [60, 1]]]])
    marked = encode(encoder, zero, points, torch.tensor([[[1, -1, -1, -1]]]))
    missing = encode(encoder, zero, points[:, :, :1], torch.tensor([[[1]]]))
    assert torch.equal(marked, missing)


def test_inside_and_outside_points_differ_by_their_embeddings_alone(encoder):
    point = torch.tensor([[12.0, 30.0]])
    inside, outside = (
        encoder.embed_points(point, torch.tensor([label]), image_size_hw=CANVAS_HW, pad=False) for label in (1, 0)
    )
    negative, positive = encoder.point_embeddings[0].weight, encoder.point_embeddings[1].weight
    torch.testing.assert_close(inside - outside, positive - negative)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_neither_autocast_nor_half_precision_weights_round_a_place(encoder, dtype):
    matrix = encoder.pe_layer.positional_encoding_gaussian_matrix
    matrix.copy_(matrix.bfloat16())  # so that halving the weights loses nothing by itself
    exact = encoder.dense_positions(7, 5)
    with torch.autocast("cpu", torch.bfloat16):
        positions = encoder.to(dtype).dense_positions(7, 5)
    assert positions.dtype == torch.float32
    assert torch.equal(positions, exact)


def test_too_many_points_are_refused(encoder):
    with pytest.raises(ValueError, match="up to 4 points, but 5 came"):
        encode(encoder, torch.zeros(1, 1, 4), torch.zeros(1, 1, 5, 2))


def test_a_prompt_needs_room_for_the_corners_of_a_box():
    with pytest.raises(ValueError, match="max_points must be at least 4.* it is 3"):
        PromptEncoder(PixelLLMPromptConfig(max_points=3))


def test_corners_of_boxes_equal_the_reference():
    golden = Golden.read(GOLDEN.with_name("utils.safetensors"))
    torch.testing.assert_close(box_corners(golden.inputs["boxes"]), golden.outputs["prompt_points"])
