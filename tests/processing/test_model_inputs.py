from __future__ import annotations

import copy
import pickle

import pytest
import torch
from PIL import Image

BOX = [2511.0, 1433.0, 3001.0, 2177.0]


@pytest.fixture
def inputs(processor):
    image = Image.new("RGB", (4000, 2880))
    return processor(image, boxes=[[BOX, None]], points=[[None, (3333.0, 1777.0)]])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("how", [lambda i, t: i.to(t), lambda i, t: i.to("cpu", t), lambda i, t: i.to(dtype=t)])
def test_boxes_and_points_stay_float32_whatever_the_pixels_become(inputs, dtype, how):
    before = {name: value.clone() for name, value in inputs.items()}
    after = how(inputs, dtype)
    assert after is inputs and after["pixel_values"].dtype == dtype
    for name, value in before.items():
        if name != "pixel_values":
            assert after[name].dtype == value.dtype and torch.equal(after[name], value), name


def test_half_precision_has_its_short_names(inputs):
    assert copy.deepcopy(inputs).half()["pixel_values"].dtype == torch.float16
    assert inputs.bfloat16()["pixel_values"].dtype == torch.bfloat16
    assert inputs["prompt_boxes"].dtype == torch.float32


def test_a_box_comes_back_as_it_was_asked_after_a_cast(processor, inputs):
    copied = pickle.loads(pickle.dumps(inputs)).to(torch.bfloat16)
    box, points = processor.prompt_sources(copied, 2)
    assert box.prompt_box == pytest.approx(BOX, abs=0.02)
    assert points.prompt_points[0][:2] == pytest.approx((3333.0, 1777.0), abs=0.02)


def test_boxes_and_points_go_where_the_pixels_go(inputs):
    moved = inputs.to(torch.device("meta"), torch.bfloat16)
    assert {value.device.type for value in moved.values()} == {"meta"}
    assert moved["prompt_boxes"].dtype == moved["prompt_points"].dtype == torch.float32


def test_arrays_of_numpy_stay_as_they_are(processor):
    inputs = processor(Image.new("RGB", (40, 30)), return_tensors="np")
    boxes = inputs["prompt_boxes"]
    assert inputs.to("cpu")["prompt_boxes"] is boxes
