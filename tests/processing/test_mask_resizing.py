from __future__ import annotations

import numpy as np
import pytest
import torch

from pixelllm_hf.processing import mask_resizing
from pixelllm_hf.processing.mask_resizing import masks_on_image


def resized_like_opencv(values: np.ndarray, size_hw: tuple[int, int]) -> np.ndarray:
    """Bilinear with half-pixel centres, clamped at the border, no antialiasing; written from its definition."""
    axes = []
    for have, want in zip(values.shape, size_hw, strict=True):
        place = np.clip((np.arange(want) + 0.5) * have / want - 0.5, 0, have - 1)
        low = np.floor(place).astype(int)
        axes.append((low, np.minimum(low + 1, have - 1), place - low))
    (y0, y1, fy), (x0, x1, fx) = axes
    top = values[y0][:, x0] * (1 - fx) + values[y0][:, x1] * fx
    bottom = values[y1][:, x0] * (1 - fx) + values[y1][:, x1] * fx
    return top * (1 - fy)[:, None] + bottom * fy[:, None]


@pytest.mark.parametrize(
    ("resized_hw", "image_hw"),
    [((256, 384), (427, 640)), ((384, 384), (1000, 1000)), ((384, 100), (77, 20)), ((32, 384), (5, 64))],
)
def test_masks_of_an_image_that_ends_with_a_cell_follow_the_rule_of_the_reference(resized_hw, image_hw):
    logits = torch.randn(3, 96, 96, generator=torch.Generator().manual_seed(3))
    masks = masks_on_image(logits, canvas_size=384, resized_size_hw=resized_hw, image_size_hw=image_hw)
    assert masks.shape == (3, *image_hw) and masks.dtype == torch.bool
    for mask, values in zip(masks, logits.double().numpy(), strict=True):
        cut = values[: int(resized_hw[0] * 96 / 384), : int(resized_hw[1] * 96 / 384)]
        expected = resized_like_opencv(cut, image_hw)
        decided = np.abs(expected) > 1e-5  # at the edge itself rounding decides
        assert (mask.numpy() == (expected > 0))[decided].all()


@pytest.mark.parametrize("resized_width", [121, 122, 123, 124])
def test_an_edge_stays_where_it_is_however_much_of_the_last_cell_is_filled(resized_width):
    columns = torch.arange(40) + 0.5
    logits = (15 - columns).expand(2, 40, 40)  # inside left of canvas pixel 60, in cells of 4
    width = 5 * resized_width
    masks = masks_on_image(logits, canvas_size=160, resized_size_hw=(160, resized_width), image_size_hw=(800, width))
    assert (masks.sum(-1) == 300).all()


def test_what_lies_in_the_padding_does_not_reach_the_image():
    logits = torch.full((1, 96, 96), 5.0)
    logits[:, 64:] = -5.0  # rows 64 and below are padding of a 256 x 384 image
    masks = masks_on_image(logits, canvas_size=384, resized_size_hw=(256, 384), image_size_hw=(512, 768))
    assert masks.all()


def test_a_mask_of_exactly_zero_is_outside():
    masks = masks_on_image(torch.zeros(1, 8, 8), canvas_size=32, resized_size_hw=(32, 32), image_size_hw=(9, 9))
    assert not masks.any()


def test_an_image_thinner_than_a_cell_still_gets_its_mask():
    masks = masks_on_image(torch.ones(2, 96, 96), canvas_size=384, resized_size_hw=(1, 384), image_size_hw=(1, 999))
    assert masks.shape == (2, 1, 999) and masks.all()


def test_many_masks_of_a_large_image_are_stretched_in_portions(monkeypatch):
    logits = torch.randn(5, 8, 8, generator=torch.Generator().manual_seed(4))
    sizes = dict(canvas_size=32, resized_size_hw=(32, 24), image_size_hw=(40, 30))
    whole = masks_on_image(logits, **sizes)
    monkeypatch.setattr(mask_resizing, "PIXELS_AT_ONCE", 2 * 40 * 30)
    assert torch.equal(masks_on_image(logits, **sizes), whole)


def test_logits_of_several_images_at_once_are_refused():
    with pytest.raises(ValueError, match=r"\(2, 1, 8, 8\)"):
        masks_on_image(torch.ones(2, 1, 8, 8), canvas_size=32, resized_size_hw=(32, 32), image_size_hw=(9, 9))
