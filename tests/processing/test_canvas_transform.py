from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from pixelllm_hf.processing.canvas_transform import CanvasTransform, fitted_size, xywh_to_xyxy

GOLDEN = Path(__file__).parents[1] / "golden" / "pixelllm" / "data_transforms.safetensors"
SIZES_WH = [(640, 480), (481, 640), (1, 999), (999, 1), (3, 999), (384, 384), (7, 5), (6000, 4001)]


def grid_points(size_wh):
    xs, ys = np.meshgrid(np.linspace(0, size_wh[0], 5), np.linspace(0, size_wh[1], 5))
    return np.stack([xs, ys], axis=-1)


@pytest.mark.parametrize("size_wh", SIZES_WH)
@pytest.mark.parametrize("canvas", [64, 384])
def test_points_survive_the_round_trip(size_wh, canvas):
    transform = CanvasTransform.fit(size_wh, canvas=canvas)
    points = grid_points(size_wh)
    np.testing.assert_allclose(transform.to_image(transform.to_canvas(points)), points, atol=1e-9)
    np.testing.assert_allclose(transform.normalized_to_image(transform.image_to_normalized(points)), points, atol=1e-9)
    around = transform.canvas_to_normalized(transform.to_canvas(points))
    np.testing.assert_allclose(around, transform.image_to_normalized(points), atol=1e-12)
    np.testing.assert_allclose(transform.normalized_to_canvas(around), transform.to_canvas(points), atol=1e-9)


@pytest.mark.parametrize("size_wh", SIZES_WH)
def test_the_image_fills_the_canvas_up_to_rounding_and_never_leaves_it(size_wh):
    resized = fitted_size(size_wh, 384)
    assert min(resized) >= 1 and max(resized) <= 384
    if min(size_wh) * 384 >= max(size_wh) * 100:  # no slivers, whose shorter side is rounded by much
        assert max(resized) >= 384 - 384 // 100


def test_sizes_follow_the_reference_rounding():
    for h, w, target, new_h, new_w, _, _ in load_file(GOLDEN)["outputs/size_rule"]:
        assert fitted_size((w, h), int(target)) == (new_w, new_h)


def test_points_are_scaled_as_in_the_reference():
    golden = load_file(GOLDEN)
    height, width = golden["inputs/ln/image"].shape[:2]
    transform = CanvasTransform.fit((width, height), canvas=40)
    np.testing.assert_allclose(
        transform.to_canvas(golden["outputs/ln/points_original_pixels"]), golden["outputs/ln/points_resized"], atol=1e-5
    )
    np.testing.assert_array_equal(golden["outputs/ln/prompt_boxes"][0], transform.canvas_box)


def test_boxes_are_their_two_corners():
    transform = CanvasTransform.fit((640, 427), canvas=384)
    box = np.array([[10, 20, 300, 400]])
    np.testing.assert_array_equal(transform.to_canvas(box).reshape(2, 2), transform.to_canvas(box.reshape(2, 2)))


def test_tensors_stay_tensors_of_their_dtype():
    transform = CanvasTransform.fit((640, 480), canvas=384)
    points = torch.tensor([[[320.0, 240.0]]], dtype=torch.float64)
    assert transform.to_canvas(points).dtype == torch.float64
    torch.testing.assert_close(transform.to_canvas(points), torch.tensor([[[192.0, 144.0]]], dtype=torch.float64))
    torch.testing.assert_close(transform.to_canvas(torch.tensor([320, 240])), torch.tensor([192.0, 144.0]))
    torch.testing.assert_close(transform.clip_to_image(torch.tensor([-1.0, 500.0])), torch.tensor([0.0, 480.0]))


def test_clipping_moves_to_the_border_and_keeps_unknown_places_unknown():
    transform = CanvasTransform.fit((20, 10), canvas=64)
    clipped = transform.clip_to_image([[-5, 12], [25, 5], [np.nan, np.nan]])
    np.testing.assert_array_equal(clipped, [[0, 10], [20, 5], [np.nan, np.nan]])


def test_corner_and_size_become_two_corners_without_touching_the_argument():
    boxes = torch.tensor([[10.0, 20.0, 30.0, 40.0]])
    torch.testing.assert_close(xywh_to_xyxy(boxes), torch.tensor([[10.0, 20.0, 40.0, 60.0]]))
    assert boxes[0, 2] == 30
    assert xywh_to_xyxy([[1, 2, 3, 4]]).tolist() == [[1, 2, 4, 6]]


@pytest.mark.parametrize("bad", [[1, 2, 3], 5, [[1], [2]]])
def test_other_shapes_than_points_and_boxes_are_refused(bad):
    with pytest.raises(ValueError, match=r"points \(\.\.\., 2\) or boxes"):
        CanvasTransform.fit((20, 10), canvas=64).to_canvas(bad)


def test_an_image_without_pixels_is_refused():
    with pytest.raises(ValueError, match="at least one pixel"):
        fitted_size((0, 10), 384)
