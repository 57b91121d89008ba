from __future__ import annotations

import os
import time
from pathlib import Path

from pixelllm_hf.space.own_folder import BoundedFolder, Bounds


def filled(path: Path, ages: list[float], size: int = 10) -> list[Path]:
    """A file in a folder of its own for each age in seconds."""
    files = []
    for i, age in enumerate(ages):
        file = path / f"folder{i}" / "file"
        file.parent.mkdir(parents=True)
        file.write_bytes(b"x" * size)
        os.utime(file, (time.time() - age,) * 2)
        files.append(file)
    return files


def left(files: list[Path]) -> list[bool]:
    return [file.exists() for file in files]


def test_the_oldest_go_when_there_are_too_many(tmp_path):
    files = filled(tmp_path, [30, 10, 20])
    BoundedFolder(tmp_path, Bounds(files=2, bytes=1000, seconds=100)).trim()
    assert left(files) == [False, True, True]


def test_the_oldest_go_when_there_is_too_much(tmp_path):
    files = filled(tmp_path, [30, 10, 20])
    BoundedFolder(tmp_path, Bounds(files=9, bytes=15, seconds=100)).trim()
    assert left(files) == [False, True, False]


def test_what_is_too_old_goes_and_its_empty_folder_too(tmp_path):
    files = filled(tmp_path, [300, 10])
    for file in files:
        os.utime(file.parent, (time.time() - 300,) * 2)
    folder = BoundedFolder(tmp_path, Bounds(files=9, bytes=1000, seconds=100))
    folder.trim()
    os.utime(files[0].parent, (time.time() - 300,) * 2)
    folder.trim()
    assert left(files) == [False, True]
    assert not files[0].parent.exists()


def test_kept_files_stay_and_count_for_nothing(tmp_path):
    files = filled(tmp_path, [3000, 10, 20])
    BoundedFolder(tmp_path, Bounds(files=2, bytes=20, seconds=100), kept=files[:1]).trim()
    assert left(files) == [True, True, True]


def test_a_link_out_of_the_folder_is_removed_and_not_followed(tmp_path):
    outside = tmp_path / "outside"
    outside.write_text("keep me")
    inside = tmp_path / "inside"
    inside.mkdir()
    (inside / "link").symlink_to(outside)
    BoundedFolder(inside, Bounds(files=0, bytes=0, seconds=100)).trim()
    assert outside.read_text() == "keep me"
    assert not (inside / "link").is_symlink()
