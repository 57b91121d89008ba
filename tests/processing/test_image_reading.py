from __future__ import annotations

import gzip
import io
import os
import struct
import zlib
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image

from pixelllm_hf.processing.image_reading import (
    ImageError,
    ImageTooLargeError,
    UnreadableImageError,
    read_image,
    readable_suffixes,
)


@pytest.fixture
def image():
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


def test_files_bytes_arrays_and_tensors_of_one_image_are_equal(image, tmp_path):
    file = tmp_path / "image.png"
    image.save(file)
    pixels = np.asarray(image)
    sources = [
        image, file, str(file), file.read_bytes(), pixels, pixels.transpose(2, 0, 1), pixels / 255.0,
        pixels.astype(np.float32), pixels.astype(np.uint16) * 257, pixels.astype(np.int64),
        torch.from_numpy(pixels.copy()), torch.from_numpy(pixels.copy()).permute(2, 0, 1) / 255, pixels[None],
    ]  # fmt: skip
    for source in sources:
        read = read_image(source)
        assert read.pixels.mode == "RGB" and read.size_wh == (32, 20)
        np.testing.assert_array_equal(np.asarray(read.pixels), pixels)


@pytest.mark.parametrize(
    "mode", ["1", "L", "P", "RGB", "YCbCr", "CMYK", "HSV", "LA", "PA", "RGBA", "RGBX", "I", "F", "I;16"]
)
def test_every_colour_mode_becomes_rgb_of_the_same_look(image, mode):
    if mode == "I;16":
        source = Image.fromarray(np.asarray(image.convert("L"), dtype=np.uint16) * 257)
        assert source.mode == mode
    elif mode in ("P", "PA"):
        source = image.convert("P", palette=Image.Palette.ADAPTIVE).convert(mode)
    else:
        source = image.convert(mode)
    read = read_image(source).pixels
    assert read.mode == "RGB" and read.size == image.size
    if mode == "1":
        return
    grey = mode in ("L", "LA", "I", "F", "I;16")
    assert close(read, image.convert("L").convert("RGB") if grey else image, tolerance=6)


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
def test_images_stand_upright_whatever_their_orientation_tag(orientation, enough):
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


def test_the_image_of_the_caller_stays_as_it_was(image):
    exif = Image.Exif()
    exif[0x0112] = 6
    source = Image.open(io.BytesIO(saved(image, "PNG", exif=exif)))
    assert read_image(source).pixels.size == (20, 32)
    assert source.size == (32, 20) and source.getexif()[0x0112] == 6


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_damaged_exif_does_not_cost_the_image(image):
    data = saved(image, "JPEG", exif=b"Exif\x00\x00II*\x00\xff\xff\xff\xff")
    assert read_image(data).size_wh == (32, 20)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF"])
def test_truncated_files_are_refused_by_name(format, tmp_path):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 90, 3), dtype=np.uint8))
    file = tmp_path / f"cut.{format.lower()}"
    file.write_bytes(saved(noise, format)[:900])
    with pytest.raises(UnreadableImageError, match="cut"):
        read_image(file)


@pytest.mark.parametrize("content", [b"", b"hello", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0"])
def test_what_is_no_image_is_refused_by_name(content, tmp_path):
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


def test_images_above_the_limit_are_refused_before_they_are_decoded(image, tmp_path):
    file = tmp_path / "large.png"
    image.save(file)
    with pytest.raises(ImageTooLargeError, match=r"large.png is 32 x 20.*max_image_pixels"):
        read_image(file, max_pixels=639)
    assert read_image(file, max_pixels=640).size_wh == (32, 20)
    with pytest.raises(ImageTooLargeError):
        read_image(image, max_pixels=639)


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
def test_arrays_that_are_no_images_are_refused(array):
    with pytest.raises(UnreadableImageError):
        read_image(array)


@pytest.mark.parametrize("thing", [None, 5, {"image": 1}, object()])
def test_other_things_are_refused_by_their_type(thing):
    with pytest.raises(ImageError, match=type(thing).__name__):
        read_image(thing)


class Endless(io.RawIOBase):
    """A stream that cannot seek and that has no end."""

    def readable(self):
        return True

    def read(self, size=-1):
        assert size >= 0, "all of an endless stream was asked for"
        return bytes(min(size, 2**20))


@pytest.mark.parametrize(
    "open_it",
    [
        partial(open, mode="rb"),
        partial(open, mode="rb", buffering=0),
        lambda file: io.BytesIO(file.read_bytes()),
        lambda file: gzip.GzipFile(fileobj=io.BytesIO(gzip.compress(file.read_bytes()))),
    ],
)
def test_open_files_are_read_from_their_beginning_and_stay_as_they_were(open_it, image, tmp_path):
    file = tmp_path / "image.png"
    image.save(file)
    with open_it(file) as stream:
        for position in (0, 7, 40):
            stream.seek(position)
            np.testing.assert_array_equal(np.asarray(read_image(stream).pixels), np.asarray(image))
            assert stream.tell() == position and not stream.closed


def test_streams_that_cannot_seek_are_read_from_where_they_stand(image):
    reading, writing = os.pipe()
    with open(writing, "wb") as stream:
        stream.write(b"header" + saved(image, "PNG"))
    with open(reading, "rb") as stream:
        assert stream.read(6) == b"header"
        assert read_image(stream).size_wh == (32, 20)
        assert not stream.closed


def test_open_files_that_give_no_image_are_refused_by_name(image, tmp_path):
    file = tmp_path / "image.png"
    image.save(file)
    with (
        open(file, encoding="latin-1") as text,
        pytest.raises(UnreadableImageError, match="image.png must give bytes"),
    ):
        read_image(text)
    with open(file) as text, pytest.raises(UnreadableImageError, match="image.png.*mode 'rb'"):
        read_image(text)
    with pytest.raises(UnreadableImageError, match="image.png cannot be read"):
        read_image(text)  # closed
    with pytest.raises(UnreadableImageError, match="image 2 is not an image"):
        read_image(io.BytesIO(b"hello"), name="image 2")


def test_what_has_no_end_is_not_read_to_it(tmp_path, monkeypatch):
    monkeypatch.setattr("pixelllm_hf.processing.image_reading.MAX_IMAGE_BYTES", 2**19)
    with pytest.raises(ImageTooLargeError, match="MiB"):
        read_image(Endless())
    file = tmp_path / "sparse.webp"
    with open(file, "wb") as stream:
        stream.truncate(2**40)
    with pytest.raises(ImageTooLargeError, match="sparse.webp has more than"):
        read_image(file)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_or_a_device_is_answered_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "link.jpg").symlink_to(tmp_path / "pipe.jpg")
    for path in (tmp_path / "pipe.jpg", tmp_path / "link.jpg", "/dev/zero", "/dev/stdin"):
        with pytest.raises(UnreadableImageError, match="is a (pipe|folder)|does not exist"):
            read_image(path)


@pytest.mark.parametrize(
    ("path", "what"),
    [
        ("x" * 5000 + ".jpg", "xxx…xxx"),
        ("/".join(["x" * 200] * 30), "…"),
        ("~nobody-has-this-name/x.jpg", "~nobody-has-this-name/x.jpg does not exist"),
        ("a\0b.jpg", "null"),
        ("", "does not exist"),
        ("gr\udcffn.jpg", r"gr\\xffn.jpg"),
        ("image.jpg/inside.jpg", "cannot be read|does not exist"),
    ],
)
def test_paths_that_no_file_can_have_are_refused(path, what, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "image.jpg").write_bytes(b"")
    with pytest.raises(UnreadableImageError, match=what) as refusal:
        read_image(path)
    assert len(str(refusal.value)) < 500
    str(refusal.value).encode()  # can be printed


def test_a_file_name_that_is_not_utf8_is_read(image, tmp_path):
    file = os.fsencode(tmp_path) + b"/gr\xffn.png"
    try:
        with open(file, "wb") as stream:
            stream.write(saved(image, "PNG"))
    except OSError:
        pytest.skip("this file system wants names in UTF-8")
    assert read_image(os.fsdecode(file)).size_wh == (32, 20)
    (entry,) = os.scandir(os.fsencode(tmp_path))
    assert read_image(entry).size_wh == (32, 20)


@pytest.fixture
def started(tmp_path, monkeypatch):
    """Programs that were started of those that PostScript is drawn with."""
    note = tmp_path / "started"
    program = tmp_path / "bin" / "gs"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\necho "$@" >> {note}\n[ "$1" = --version ] && echo 10.0\nexit 0\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", None)  # it remembers what it found
    return lambda: note.exists()


@pytest.mark.parametrize("suffix", ["jpg", "eps", "png"])
def test_no_image_starts_a_program(suffix, tmp_path, started):
    content = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 100 100\n%%EndComments\n(any PostScript) print\n%%EOF\n"
    file = tmp_path / f"photo.{suffix}"
    file.write_bytes(content)
    opened = Image.open(io.BytesIO(content))
    assert opened.format == "EPS"
    for source in (file, content, io.BytesIO(content), opened):
        with pytest.raises(UnreadableImageError, match="format"):
            read_image(source)
    assert not started()


def test_every_suffix_that_is_called_readable_is_read(image, tmp_path):
    formats = Image.registered_extensions()
    names = readable_suffixes()
    assert {".jpg", ".jpeg", ".jfif", ".png", ".gif", ".bmp", ".tif", ".tiff", ".webp"} <= names
    assert names.isdisjoint({".eps", ".ps", ".wmf", ".pdf", ".mpg"})
    for suffix in sorted(names):
        if formats[suffix] in Image.SAVE:
            file = tmp_path / f"image{suffix}"
            image.save(file, formats[suffix])
            assert read_image(file).size_wh == (32, 20), suffix


def bitmap(width, height, data):
    """A run-length encoded BMP with 256 colours."""
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(data), 0, 0, 256, 256)
    return b"BM" + struct.pack("<IHHI", 0, 0, 0, 14 + 40 + 1024) + header + bytes(1024) + data


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_small_file_cannot_ask_for_many_rows_of_a_wide_image():
    skip_255_rows = b"\x00\x02\x00\xff"
    with pytest.raises(ImageTooLargeError, match="100000000 x 1"):  # 25 GB in Pillow's decoder
        read_image(bitmap(100_000_000, 1, skip_255_rows))


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_tensors_of_half_precision_are_images(image, kind):
    values = torch.from_numpy(np.asarray(image) // 16 * 16).permute(2, 0, 1)
    read = read_image(values.to(kind)).pixels
    np.testing.assert_array_equal(np.asarray(read), np.asarray(image) // 16 * 16)
    with pytest.raises(UnreadableImageError, match="tensor"):
        read_image(values.to("meta"))
