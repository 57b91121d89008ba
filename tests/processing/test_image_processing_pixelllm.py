from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file

from pixelllm_hf.processing.image_processing_pixelllm import PixelLLMImageProcessor, resize_pixels
from pixelllm_hf.processing.image_reading import ImageTooLargeError

GOLDEN = Path(__file__).parents[1] / "golden" / "pixelllm" / "data_transforms.safetensors"


def noise(size_wh, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size_wh[1], size_wh[0], 3), dtype=np.uint8))


def test_the_official_recipe_is_reproduced_to_the_last_bit():
    golden = load_file(GOLDEN)
    image_processor = PixelLLMImageProcessor(size={"height": 40, "width": 40}, antialias=False)
    out = image_processor(golden["inputs/ln/image"], return_tensors="np")
    np.testing.assert_array_equal(out["pixel_values"][0].transpose(1, 2, 0), golden["outputs/ln/canvas"])
    np.testing.assert_array_equal(out["pixel_mask"][0], golden["outputs/ln/padding_mask"] > 0)
    assert out["original_sizes"].tolist() == [[48, 64]]


@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize("size_wh", [(1, 1), (1, 999), (999, 1), (64, 64), (63, 65), (200, 31)])
def test_the_image_lies_top_left_and_the_rest_is_zero(size_wh, antialias):
    image = Image.new("RGB", size_wh, (10, 20, 30))
    out = PixelLLMImageProcessor(size={"height": 64, "width": 64}, antialias=antialias)(image, return_tensors="pt")
    pixels, mask = out["pixel_values"][0], out["pixel_mask"][0]
    assert pixels.dtype == torch.float32 and mask.dtype == torch.bool and out["original_sizes"].dtype == torch.int64
    height, width = int(mask.any(1).sum()), int(mask.any(0).sum())
    assert mask[:height, :width].all() and int(mask.sum()) == height * width
    assert (pixels[:, ~mask] == 0).all()
    torch.testing.assert_close(pixels[:, mask], torch.tensor([10.0, 20, 30])[:, None].expand(-1, height * width))


def test_without_antialiasing_enlarging_agrees_with_pillow():
    image = noise((20, 13))
    plain, smooth = (resize_pixels(image, (50, 40), antialias) for antialias in (False, True))
    assert np.abs(plain - smooth).max() <= 1.0  # Pillow rounds


def test_antialiasing_averages_fine_texture_away():
    image = Image.fromarray(np.indices((640, 640)).sum(0).astype(np.uint8) % 2 * 255)
    out = PixelLLMImageProcessor(size={"height": 64, "width": 64})(image, return_tensors="np")["pixel_values"]
    assert np.abs(out - 127.5).max() < 8


def test_large_jpegs_are_decoded_small_and_look_the_same():
    image = noise((20, 16)).resize((2500, 2000), Image.Resampling.BICUBIC)
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=95)
    image_processor = PixelLLMImageProcessor(size={"height": 64, "width": 64})
    fast = image_processor(stream.getvalue(), return_tensors="np")
    full = image_processor(np.asarray(Image.open(stream)), return_tensors="np")
    assert fast["original_sizes"].tolist() == full["original_sizes"].tolist() == [[2000, 2500]]
    assert np.abs(fast["pixel_values"] - full["pixel_values"]).mean() < 1.5


def test_an_image_does_not_depend_on_its_neighbours():
    image_processor = PixelLLMImageProcessor(size={"height": 64, "width": 64})
    images = [noise((80, 30), 1), noise((20, 90), 2), noise((64, 64), 3)]
    together = image_processor(images, return_tensors="pt")
    for i, image in enumerate(images):
        alone = image_processor(image, return_tensors="pt")
        for name in alone:
            assert torch.equal(together[name][i], alone[name][0])
    batch = np.stack([np.asarray(images[2])] * 2)
    assert image_processor(batch, return_tensors="pt")["pixel_values"].shape[0] == 2


def test_settings_survive_saving(tmp_path):
    image_processor = PixelLLMImageProcessor(size={"height": 64, "width": 64}, antialias=False, max_image_pixels=999)
    image_processor.save_pretrained(tmp_path)
    loaded = PixelLLMImageProcessor.from_pretrained(tmp_path)
    assert (loaded.canvas, loaded.antialias, loaded.max_image_pixels) == (64, False, 999)
    assert json.loads((tmp_path / "preprocessor_config.json").read_text())["size"] == {"height": 64, "width": 64}
    with pytest.raises(ImageTooLargeError, match="image 1"):
        loaded([noise((9, 9)), noise((99, 99))])
    assert loaded(noise((99, 99)), max_image_pixels=10**6, antialias=True)["pixel_values"].shape == (1, 3, 64, 64)


@pytest.mark.parametrize("images", [[], [None], [[None]], [[Image.new("RGB", (2, 2))] * 2], [[]]])
def test_empty_and_deeper_lists_are_refused(images):
    with pytest.raises(ValueError, match="image|list"):
        PixelLLMImageProcessor()(images)


def test_only_square_canvases_are_accepted():
    with pytest.raises(ValueError, match="square"):
        PixelLLMImageProcessor(size={"height": 64, "width": 32})(noise((4, 4)))


def test_misspelt_settings_are_refused():
    with pytest.raises(TypeError, match="antialiass"):
        PixelLLMImageProcessor()(noise((4, 4)), antialiass=True)
