"""Locations stay in float32 whatever the model or its inputs are converted to."""

from __future__ import annotations

import pytest
import torch

from pixelllm_hf.modeling.modeling_pixelllm import PixelLLMForGroundedGeneration

KEPT = ("point_head", "prompt_encoder", "proposal_head")
CONVERSIONS = {
    "to(bfloat16)": lambda model: model.to(torch.bfloat16),
    "half()": lambda model: model.half(),
    "bfloat16()": lambda model: model.bfloat16(),
    "type(float16)": lambda model: model.type(torch.float16),
    "to(device and dtype)": lambda model: model.to("cpu", torch.bfloat16),
}


@pytest.mark.parametrize("conversion", CONVERSIONS)
def test_a_converted_model_keeps_exactly_what_loading_in_half_precision_keeps(small_model, conversion):
    before = {name: value.clone() for name, value in small_model.state_dict().items()}
    converted = CONVERSIONS[conversion](small_model).state_dict()
    for name, value in converted.items():
        if name.startswith(KEPT):
            assert value.dtype == torch.float32 and torch.equal(value, before[name])
        elif value.is_floating_point():
            assert value.dtype in (torch.float16, torch.bfloat16), name


def test_gradients_of_kept_weights_stay_in_float32_too(small_model, small_inputs):
    small_model(**small_inputs, labels=torch.ones(3, 2, dtype=torch.long) * 7).loss.backward()
    weight = small_model.prompt_encoder.not_a_point_embed.weight
    gradient = weight.grad.clone()
    small_model.bfloat16()
    weight = small_model.prompt_encoder.not_a_point_embed.weight
    assert weight.grad.dtype == torch.float32 and torch.equal(weight.grad, gradient)


def test_a_model_can_still_be_made_wider(small_model):
    assert {parameter.dtype for parameter in small_model.double().parameters()} == {torch.float64}
    assert {parameter.dtype for parameter in small_model.float().parameters()} == {torch.float32}


@torch.no_grad()
def test_a_converted_model_answers_like_one_loaded_in_half_precision(small_model, small_inputs, tmp_path):
    small_model.save_pretrained(tmp_path)
    loaded = PixelLLMForGroundedGeneration.from_pretrained(tmp_path, dtype="bfloat16").eval()
    expected = loaded.generate(**small_inputs, max_new_tokens=4, suppress_tokens=[1])
    found = small_model.to(torch.bfloat16).generate(**small_inputs, max_new_tokens=4, suppress_tokens=[1])
    assert torch.equal(found.sequences, expected.sequences)
    assert found.coordinates.dtype == torch.float32
    torch.testing.assert_close(found.coordinates, expected.coordinates, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64, torch.int64], ids=str)
@torch.no_grad()
def test_prompts_of_any_dtype_that_holds_their_numbers_ask_the_same(small_model, small_inputs, dtype):
    boxes = torch.tensor([[[0.0, 0, 64, 64], [8, 8, 40, 30]], [[0, 0, 0, 0], [0, 0, 0, 0]]])  # one by its points
    points = torch.tensor([[[[0.0, 0]], [[0, 0]]], [[[20, 12]], [[0, 0]]]])
    asked = {"prompt_mask": small_inputs["prompt_mask"]}
    features = small_model.get_image_features(small_inputs["pixel_values"], small_inputs["pixel_mask"])
    exact = small_model.get_visual_tokens(features, prompt_boxes=boxes, prompt_points=points, **asked)
    cast = small_model.get_visual_tokens(
        features, prompt_boxes=boxes.to(dtype), prompt_points=points.to(dtype), **asked
    )
    assert torch.equal(cast, exact)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64, torch.int64], ids=str)
def test_objects_of_any_dtype_that_holds_their_numbers_teach_the_same(small_model, small_inputs, dtype):
    boxes = torch.tensor([[[4.0, 4, 30, 30]], [[10, 6, 40, 36]]])
    named = {name: small_inputs[name] for name in ("pixel_values", "pixel_mask")}
    labels = torch.tensor([[[5, 6, 1]], [[7, 1, -100]]])
    losses = []
    for given in (boxes, boxes.to(dtype)):
        torch.manual_seed(0)
        losses.append(small_model(**named, object_boxes=given, object_labels=labels).loss)
    assert torch.equal(*losses)
