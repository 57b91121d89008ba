from __future__ import annotations

import io
import math
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pixelllm_hf.processing.image_reading import UnreadableImageError
from pixelllm_hf.space.limits import Limits, checked_request, checked_whole, read_upload, uploaded_file
from pixelllm_hf.space.refusals import RefusedError

LIMITS = Limits(upload_bytes=1 << 20, pixels=1_000_000, prompts=3, letters=20, objects=7)


def png_chunk(kind: bytes, data: bytes) -> bytes:
    checksum = zlib.crc32(kind + data).to_bytes(4, "big")
    return len(data).to_bytes(4, "big") + kind + data + checksum


def bomb(side: int) -> bytes:
    """A PNG of a few hundred bytes that says it is `side` pixels wide and high."""
    header = side.to_bytes(4, "big") * 2 + b"\x08\x02\x00\x00\x00"
    body = zlib.compress(b"\0" * 100_000)
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", body) + png_chunk(b"IEND", b"")


def written(tmp_path: Path, content: bytes) -> Path:
    file = tmp_path / "upload.png"
    file.write_bytes(content)
    return file


@pytest.mark.parametrize("side", [2_000, 20_000, 2_000_000_000])
def test_a_decompression_bomb_is_refused_by_its_header(tmp_path, side):
    with pytest.raises(RefusedError, match="1 million pixels"):
        read_upload(written(tmp_path, bomb(side)), LIMITS)


def test_a_file_larger_than_the_limit_is_refused(tmp_path):
    with pytest.raises(RefusedError, match="1 MB"):
        read_upload(written(tmp_path, b"\x89PNG\r\n\x1a\n" + b"\0" * (1 << 20)), LIMITS)


def test_what_is_not_an_image_is_refused(tmp_path):
    for content in (b"", b"hello", b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"PK\x03\x04" + b"\0" * 99):
        with pytest.raises(RefusedError, match="not an image in a known format"):
            read_upload(written(tmp_path, content), LIMITS)


def test_formats_for_which_pillow_starts_other_programs_are_not_even_looked_at(tmp_path, monkeypatch):
    started = []
    monkeypatch.setattr("subprocess.Popen", lambda *a, **k: started.append(a))
    postscript = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n%%EOF\n"
    Image.open(io.BytesIO(postscript))  # Pillow knows it
    with pytest.raises(RefusedError, match="known format"):
        read_upload(written(tmp_path, postscript), LIMITS)
    assert not started


def test_a_cut_image_is_refused_without_the_name_of_a_file_of_ours(tmp_path):
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (99, 99, 3), dtype=np.uint8)).save(buffer, "PNG")
    with pytest.raises(UnreadableImageError, match="the image is truncated") as caught:
        read_upload(written(tmp_path, buffer.getvalue()[:9000]), LIMITS)
    assert str(tmp_path) not in str(caught.value)


def test_a_good_image_comes_upright_and_in_colour(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    buffer = io.BytesIO()
    Image.new("L", (30, 20), 99).save(buffer, "JPEG", exif=exif)
    image = read_upload(written(tmp_path, buffer.getvalue()), LIMITS)
    assert (image.mode, image.size) == ("RGB", (20, 30))


def test_only_files_in_the_folder_of_uploads_are_read(tmp_path):
    folder, outside = tmp_path / "uploads", tmp_path / "secret.txt"
    folder.mkdir()
    outside.write_text("secret")
    (folder / "good.png").write_text("x")
    (folder / "link.png").symlink_to(outside)
    assert uploaded_file({"path": str(folder / "good.png")}, folder) == folder / "good.png"
    for path in (outside, folder / ".." / "secret.txt", folder / "link.png", folder / "none.png", folder, "/etc/passwd",
                 "a\0b", "x" * 9999, "http://127.0.0.1/x.png"):  # fmt: skip
        with pytest.raises(RefusedError, match="not here"):
            uploaded_file({"path": str(path)}, folder)
    for payload in (None, "path", {}, {"path": None}, {"path": ["x"]}, {"url": "data:image/png;base64,AAAA"}):
        with pytest.raises(RefusedError, match="an image is needed"):
            uploaded_file(payload, folder)


def test_requests_within_the_limits_are_taken_as_they_are():
    request = checked_request("region", LIMITS, boxes=[[1, 2, 3, 4.5]], points=[[5, 6]])
    assert request.boxes == ((1.0, 2.0, 3.0, 4.5),)
    assert request.points == (((5.0, 6.0),),)
    assert checked_request("refer", LIMITS, expressions=["the red car"]).expressions == ("the red car",)
    dense = checked_request("dense", LIMITS, min_score=0.5)
    assert (dense.max_results, dense.min_score) == (7, 0.5), "the most objects are bounded even if nobody asks"


@pytest.mark.parametrize(
    ("task", "given", "rule"),
    [
        ("hack", {}, "the tasks are"),
        (["caption"], {}, "the tasks are"),
        ("refer", {}, "write what to find"),
        ("refer", {"expressions": [" "]}, "must be a text"),
        ("refer", {"expressions": "the car"}, "must be a list"),
        ("refer", {"expressions": [7]}, "must be a text"),
        ("refer", {"expressions": ["x" * 21]}, "20 letters"),
        ("refer", {"expressions": ["\ud800"]}, "Unicode"),
        ("refer", {"expressions": ["x"] * 4}, "at most 3"),
        ("region", {}, "draw a box"),
        ("region", {"boxes": [[1, 2, 3]]}, "4 numbers"),
        ("region", {"boxes": [[1, 2, 3, math.nan]]}, "4 numbers"),
        ("region", {"boxes": [[1, 2, 3, 10**400]]}, "4 numbers"),
        ("region", {"boxes": [[1, 2, 3, True]]}, "4 numbers"),
        ("region", {"boxes": [["1", 2, 3, 4]]}, "4 numbers"),
        ("region", {"points": [[1, 2, 3]]}, "2 numbers"),
        ("region", {"boxes": [[1, 2, 3, 4]] * 2, "points": [[1, 2]] * 2}, "at most 3"),
        ("dense", {"max_results": 8}, "from 1 to 7"),
        ("dense", {"max_results": 1.5}, "from 1 to 7"),
        ("dense", {"min_score": 2}, "from 0 to 1"),
        ("dense", {"min_score": "x"}, "from 0 to 1"),
    ],
)
def test_requests_beyond_the_limits_are_refused_with_the_rule(task, given, rule):
    with pytest.raises(RefusedError, match=rule):
        checked_request(task, LIMITS, **given)


def test_refusals_quote_only_a_little_of_what_was_sent():
    with pytest.raises(RefusedError) as caught:
        checked_whole("x" * 100_000, 1, 8, "the beams")
    assert len(str(caught.value)) < 300
