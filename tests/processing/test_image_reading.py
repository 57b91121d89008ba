from __future__ import annotations

import io
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from pixelllm_hf.processing.image_reading import (
    ImageError,
    ImageTooLargeError,
    UnreadableImageError,
    read_image,
)


@pytest.fixture
def picture():
    """32 x 20, left half red, right half blue, upper half brighter."""
    pixels = np.zeros((20, 32, 3), dtype=np.uint8)
    pixels[:, :16, 0] = 120
    pixels[:, 16:, 2] = 120
    pixels[:10] *= 2
    return Image.fromarray(pixels)


def saved(image, format, **options):
    stream = io.BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()


def close(image, other, tolerance=4):
    return np.abs(np.asarray(image, dtype=int) - np.asarray(other, dtype=int)).max() <= tolerance


def test_files_bytes_arrays_and_tensors_of_one_picture_are_equal(picture, tmp_path):
    file = tmp_path / "picture.png"
    picture.save(file)
    pixels = np.asarray(picture)
    sources = [
        picture, file, str(file), file.read_bytes(), pixels, pixels.transpose(2, 0, 1), pixels / 255.0,
        pixels.astype(np.float32), pixels.astype(np.uint16) * 257, pixels.astype(np.int64),
        torch.from_numpy(pixels.copy()), torch.from_numpy(pixels.copy()).permute(2, 0, 1) / 255, pixels[None],
    ]  # fmt: skip
    for source in sources:
        image = read_image(source)
        assert image.pixels.mode == "RGB" and image.size_wh == (32, 20)
        np.testing.assert_array_equal(np.asarray(image.pixels), pixels)


@pytest.mark.parametrize(
    "mode", ["1", "L", "P", "RGB", "YCbCr", "CMYK", "HSV", "LA", "PA", "RGBA", "RGBX", "I", "F", "I;16"]
)
def test_every_colour_mode_becomes_rgb_of_the_same_look(picture, mode):
    if mode == "I;16":
        image = Image.fromarray(np.asarray(picture.convert("L"), dtype=np.uint16) * 257)
        assert image.mode == mode
    elif mode in ("P", "PA"):
        image = picture.convert("P", palette=Image.Palette.ADAPTIVE).convert(mode)
    else:
        image = picture.convert(mode)
    read = read_image(image).pixels
    assert read.mode == "RGB" and read.size == picture.size
    if mode == "1":
        return
    grey = mode in ("L", "LA", "I", "F", "I;16")
    assert close(read, picture.convert("L").convert("RGB") if grey else picture, tolerance=6)


def test_transparency_shows_white(tmp_path):
    clear = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    half = Image.new("RGBA", (4, 4), (0, 0, 0, 128))
    assert read_image(clear).pixels.getpixel((0, 0)) == (255, 255, 255)
    assert close(read_image(half).pixels, Image.new("RGB", (4, 4), (127, 127, 127)))
    palette = Image.new("P", (4, 4), 0)
    palette.putpalette([9, 9, 9, 50, 60, 70])
    palette.info["transparency"] = 0
    palette.putpixel((0, 0), 1)
    read = read_image(saved(palette, "PNG", transparency=0)).pixels
    assert read.getpixel((0, 0)) == (50, 60, 70) and read.getpixel((1, 1)) == (255, 255, 255)
    assert read_image(np.zeros((4, 4, 2), dtype=np.uint8)).pixels.getpixel((0, 0)) == (255, 255, 255)


def test_sixteen_bits_keep_their_tones():
    ramp = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    read = np.asarray(read_image(saved(Image.fromarray(ramp), "PNG")).pixels)[..., 0]
    np.testing.assert_array_equal(read, np.rint(ramp / 257.0))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("enough", [None, 100])
def test_pictures_stand_upright_whatever_their_orientation_tag(orientation, enough):
    corner = Image.new("RGB", (640, 320), "white")
    corner.paste((0, 0, 0), (0, 0, 320, 80))  # upper left, twice as wide as high
    turned = {
        2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }  # fmt: skip
    stored = corner.transpose(turned[orientation]) if orientation in turned else corner
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = read_image(saved(stored, "JPEG", exif=exif, quality=95), enough=enough)
    assert image.size_wh == (640, 320)
    if enough is not None:
        assert image.pixels.width < 640, "a large JPEG is decoded at a fraction of its size"
    assert min(image.pixels.size) >= min(enough or 320, 320)
    small, expected = (i.resize((8, 4), Image.Resampling.NEAREST) for i in (image.pixels, corner))
    assert close(small, expected, tolerance=9)


def test_the_picture_of_the_caller_stays_as_it_was(picture):
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.open(io.BytesIO(saved(picture, "PNG", exif=exif)))
    assert read_image(image).pixels.size == (20, 32)
    assert image.size == (32, 20) and image.getexif()[0x0112] == 6


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_damaged_exif_does_not_cost_the_picture(picture):
    data = saved(picture, "JPEG", exif=b"Exif\x00\x00II*\x00\xff\xff\xff\xff")
    assert read_image(data).size_wh == (32, 20)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF"])
def test_truncated_files_are_refused_by_name(format, tmp_path):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 90, 3), dtype=np.uint8))
    file = tmp_path / f"cut.{format.lower()}"
    file.write_bytes(saved(noise, format)[:900])
    with pytest.raises(UnreadableImageError, match="cut"):
        read_image(file)


@pytest.mark.parametrize("content", [b"", b"hello", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0"])
def test_what_is_no_picture_is_refused_by_name(content, tmp_path):
    file = tmp_path / "letter.jpg"
    file.write_bytes(content)
    with pytest.raises(UnreadableImageError, match="letter.jpg"):
        read_image(file)
    with pytest.raises(UnreadableImageError, match="image 3"):
        read_image(content, name="image 3")


def test_missing_files_and_folders_are_refused_by_name(tmp_path):
    with pytest.raises(UnreadableImageError, match="nowhere.png does not exist"):
        read_image(tmp_path / "nowhere.png")
    with pytest.raises(UnreadableImageError, match="is a folder"):
        read_image(tmp_path)


@pytest.mark.parametrize("url", ["http://a.b/c.jpg", "https://a.b/c.jpg", "file:///c.jpg", "data:image/png;base64,AA"])
def test_urls_are_never_opened(url):
    with pytest.raises(UnreadableImageError, match="never from the network"):
        read_image(url)


def test_pictures_above_the_limit_are_refused_before_they_are_decoded(picture, tmp_path):
    file = tmp_path / "large.png"
    picture.save(file)
    with pytest.raises(ImageTooLargeError, match=r"large.png is 32 x 20.*max_image_pixels"):
        read_image(file, max_pixels=639)
    assert read_image(file, max_pixels=640).size_wh == (32, 20)
    with pytest.raises(ImageTooLargeError):
        read_image(picture, max_pixels=639)


def test_decompression_bombs_are_refused(tmp_path):
    file = tmp_path / "bomb.png"
    header = saved(Image.new("1", (1, 1)), "PNG")
    size = (60000).to_bytes(4, "big")
    chunk = b"IHDR" + size + size + header[24:29]
    file.write_bytes(header[:12] + chunk + zlib.crc32(chunk).to_bytes(4, "big") + header[33:])
    with pytest.raises(ImageTooLargeError, match="bomb.png"):
        read_image(file)


@pytest.mark.parametrize(
    "array",
    [
        np.full((4, 4, 3), np.nan),
        np.full((4, 4, 3), -0.5),
        np.full((4, 4, 3), 300.0),
        np.full((4, 4, 3), 256),
        np.zeros((6, 7, 5), dtype=np.uint8),
        np.zeros((4,), dtype=np.uint8),
        np.zeros((0, 4, 3), dtype=np.uint8),
        np.full((4, 4), "x"),
    ],
)
def test_arrays_that_are_no_pictures_are_refused(array):
    with pytest.raises(UnreadableImageError):
        read_image(array)


@pytest.mark.parametrize("thing", [None, 5, {"image": 1}, object()])
def test_other_things_are_refused_by_their_type(thing):
    with pytest.raises(ImageError, match=type(thing).__name__):
        read_image(thing)
