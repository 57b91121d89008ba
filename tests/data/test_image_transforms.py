from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from pixelllm_hf.data.image_transforms import (
    Augmentation,
    TrainingView,
    crop_boxes,
    flip_boxes,
    pad_image,
    resize_masks,
    shorter_side_size,
)
from pixelllm_hf.processing.canvas_transform import CanvasTransform


def test_flipping_twice_changes_nothing():
    boxes = torch.tensor([[3.0, 4.0, 10.0, 12.0]])
    torch.testing.assert_close(flip_boxes(flip_boxes(boxes, 50), 50), boxes)


def test_a_box_outside_the_window_loses_its_area():
    box = crop_boxes(torch.tensor([[0.0, 0.0, 5.0, 5.0]]), (10, 10, 20, 20))[0]
    assert box.tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize(("size_hw", "expected"), [((480, 640), (384, 512)), ((375, 500), (384, 512))])
def test_the_shorter_side_decides_the_size(size_hw, expected):
    assert shorter_side_size(size_hw, 384) == expected


def test_padding_is_zero_and_masked_out():
    canvas, mask = pad_image(torch.full((3, 2, 4), 9.0), 5)
    assert canvas.shape == (3, 5, 5)
    assert mask.sum() == 8
    assert bool((canvas[:, ~mask] == 0).all())
    assert bool((canvas[:, mask] == 9).all())


def test_a_view_without_augmentation_is_what_the_processor_shows():
    view = TrainingView.draw((640, 427), 384, Augmentation(), np.random.default_rng(0))
    assert view.transform == CanvasTransform.fit((640, 427), 384)
    assert view.size_wh == (383, 256)
    assert not view.flipped


@pytest.mark.parametrize("augmentation", [Augmentation(), Augmentation((0.5, 2.0), 0.5), Augmentation((1.0, 1.0), 1.0)])
def test_boxes_follow_the_pixels_through_every_view(augmentation):
    pixels = np.zeros((60, 90, 3), np.uint8)
    pixels[20:50, 30:70] = 255
    for seed in range(8):
        view = TrainingView.draw((90, 60), 64, augmentation, np.random.default_rng(seed))
        canvas, mask = view.image(Image.fromarray(pixels), antialias=False)
        box = view.boxes(torch.tensor([30.0, 20.0, 70.0, 50.0]))
        ys, xs = torch.nonzero(canvas[0] > 127, as_tuple=True)
        found = torch.tensor([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1], dtype=torch.float32)
        torch.testing.assert_close(found, box, atol=1.0, rtol=0)
        assert int(mask.sum()) == view.size_wh[0] * view.size_wh[1]


@pytest.mark.parametrize("settings", [{"scale": (0.0, 1.0)}, {"scale": (1.2, 1.0)}, {"flip": 1.5}])
def test_an_impossible_augmentation_is_refused(settings):
    with pytest.raises(ValueError, match="augmentation needs"):
        Augmentation(**settings)


@pytest.mark.parametrize("augmentation", [Augmentation(), Augmentation((0.5, 2.0), 0.5), Augmentation((0.3, 0.9), 1.0)])
def test_a_mask_on_the_canvas_is_the_resized_mask_cropped_and_padded(augmentation):
    generator = np.random.default_rng(3)
    for size_wh in [(90, 60), (61, 97), (5, 3), (200, 200)]:
        mask = generator.random(size_wh[::-1]) > 0.5
        for seed in range(4):
            view = TrainingView.draw(size_wh, 64, augmentation, np.random.default_rng(seed))
            whole = torch.from_numpy(mask)[None].flip(-1) if view.flipped else torch.from_numpy(mask)[None]
            whole = resize_masks(whole, view.transform.resized_size_wh[::-1])
            top, left, height, width = view.window
            expected, _ = pad_image(whole[:, top : top + height, left : left + width].to(torch.uint8), 64)
            torch.testing.assert_close(view.mask(mask), expected[0])
