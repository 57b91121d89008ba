from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pixelllm_hf.space.temp_storage import BoundedFolder, Bounds, claimed_folder, remove_left_folders


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


# --- folders of demos that were killed ---

CLAIM = """
import pathlib, sys
from pixelllm_hf.space.temp_storage import claimed_folder
folder = claimed_folder(pathlib.Path(sys.argv[1]))
(folder / "private.jpg").write_text("a visitor's image")
print(folder.name, flush=True)
sys.stdin.read()
"""


def demo_elsewhere(parent: Path) -> tuple[subprocess.Popen[str], Path]:
    """Another process that holds a folder with a visitor's image in it, as a running demo does."""
    process = subprocess.Popen(
        [sys.executable, "-c", CLAIM, str(parent)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    return process, parent / process.stdout.readline().strip()


def test_what_a_killed_demo_left_is_removed_and_what_a_running_one_has_stays(tmp_path):
    pytest.importorskip("fcntl", reason="needs locks of folders")
    killed, left = demo_elsewhere(tmp_path)
    running, kept = demo_elsewhere(tmp_path)
    try:
        killed.kill()
        killed.communicate()
        remove_left_folders(tmp_path)
        assert not left.exists()
        assert (kept / "private.jpg").exists()
    finally:
        running.kill()
        running.communicate()
    remove_left_folders(tmp_path)
    assert not kept.exists()


def test_the_folder_of_this_process_is_not_taken_for_one_that_was_left(tmp_path):
    mine = claimed_folder(tmp_path)
    remove_left_folders(tmp_path)
    assert mine.is_dir()


def test_only_folders_of_demos_are_removed_and_links_are_not_followed(tmp_path):
    pytest.importorskip("fcntl", reason="needs locks of folders")
    home, temporary = tmp_path / "home", tmp_path / "temporary"
    home.mkdir()
    (home / "letter").write_text("keep me")
    temporary.mkdir()
    (temporary / "pixelllm-demo-evil").symlink_to(home)
    (temporary / "pixelllm-demo-file").write_text("keep me")
    (temporary / "someone-elses").mkdir()
    left = temporary / "pixelllm-demo-left"
    left.mkdir()
    (left / "link").symlink_to(home)
    remove_left_folders(temporary)
    assert sorted(path.name for path in temporary.iterdir()) == [
        "pixelllm-demo-evil", "pixelllm-demo-file", "someone-elses",
    ]  # fmt: skip
    assert (home / "letter").read_text() == "keep me"


def test_folders_of_other_users_stay(tmp_path, monkeypatch):
    pytest.importorskip("fcntl", reason="needs locks of folders")
    theirs = tmp_path / "pixelllm-demo-theirs"
    theirs.mkdir()
    monkeypatch.setattr(os, "getuid", lambda: os.stat(theirs).st_uid + 1)
    remove_left_folders(tmp_path)
    assert theirs.is_dir()


def test_a_folder_that_is_swept_away_before_it_is_claimed_is_made_again(tmp_path, monkeypatch):
    pytest.importorskip("fcntl", reason="needs locks of folders")
    from pixelllm_hf.space import temp_storage

    lock = temp_storage._locked
    swept = []

    def late(folder: Path, *, wait: bool) -> int | None:
        handle = lock(folder, wait=wait)
        if not swept:
            swept.append(folder)
            folder.rmdir()  # another demo had the lock before
        return handle

    monkeypatch.setattr(temp_storage, "_locked", late)
    mine = claimed_folder(tmp_path)
    assert mine.is_dir() and swept and mine != swept[0]
