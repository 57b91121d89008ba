"""Folders are whole or not there, and one process at a time writes them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from pixelllm_hf.folders import FolderInUseError, atomic_folder, built_once, folder_lock, remove_leftovers, reserve

SRC = Path(__file__).parents[1] / "src"


def other_process(code: str, folder: Path) -> subprocess.Popen[str]:
    """Runs `code`, which prints a line when it is ready."""
    process = subprocess.Popen(
        [
            sys.executable,
            "-c",
            f"import sys, time\nfrom pathlib import Path\nfolder = Path(sys.argv[1])\n{code}",
            folder,
        ],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(SRC)},
    )
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    return process


HOLDS_IT = """
from pixelllm_hf.folders import folder_lock
with folder_lock(folder, "a training"):
    print("ready", flush=True)
    time.sleep(60)
"""
HOLDS_IT_AND_FORKS = """
import os
from pixelllm_hf.folders import folder_lock
with folder_lock(folder, "a training"):
    if os.fork() == 0:
        print("ready", flush=True)
        time.sleep(3)
        os._exit(0)
    time.sleep(60)
"""
WRITES = """
from pixelllm_hf.folders import atomic_folder
with atomic_folder(folder / "model") as half:
    (half / "a").write_text("x")
    print("ready", flush=True)
    time.sleep(60)
"""


def test_a_lock_names_its_holder_and_ends_with_its_process(tmp_path: Path) -> None:
    holder = other_process(HOLDS_IT, tmp_path)
    try:
        for _ in range(2):  # asking does not wipe out what is told
            with (
                pytest.raises(FolderInUseError, match=f"a training, process {holder.pid} on "),
                folder_lock(tmp_path, "x"),
            ):
                pass
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    with folder_lock(tmp_path, "x"):
        pass


def test_a_loader_process_that_outlives_a_killed_run_does_not_keep_its_lock(tmp_path: Path) -> None:
    holder = other_process(HOLDS_IT_AND_FORKS, tmp_path)
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with folder_lock(tmp_path, "x"):
        pass


def test_leftovers_are_removed_once_their_writer_is_gone(tmp_path: Path) -> None:
    writer = other_process(WRITES, tmp_path)
    try:
        remove_leftovers(tmp_path)
        (half,) = tmp_path.glob(".model.*.tmp")
    finally:
        writer.send_signal(signal.SIGKILL)
        writer.wait()
    remove_leftovers(tmp_path)
    assert not half.exists() and not (tmp_path / "model").exists()


def test_what_a_kill_left_laid_aside_comes_back(tmp_path: Path) -> None:
    (tmp_path / ".my.model.0123.old.tmp").mkdir()
    (tmp_path / ".my.model.0123.old.tmp" / "a").write_text("x")
    remove_leftovers(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["my.model"]


def test_two_that_want_the_same_folder_build_it_once(tmp_path: Path) -> None:
    built = []

    def build(folder: Path) -> None:
        built.append(folder)
        time.sleep(0.2)
        (folder / "a").write_text("x")

    threads = [threading.Thread(target=built_once, args=(tmp_path / "cache", build)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(built) == 1 and (tmp_path / "cache" / "a").read_text() == "x"


def test_a_build_that_fails_leaves_nothing_and_the_next_one_builds(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        (folder / "a").write_text("x")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        built_once(tmp_path / "cache", fail)
    assert not list(tmp_path.glob(".cache.*.tmp"))
    built_once(tmp_path / "cache", lambda folder: (folder / "a").touch())
    assert (tmp_path / "cache" / "a").exists()


def test_an_older_folder_is_kept_where_it_is_not_to_be_replaced(tmp_path: Path) -> None:
    for content in ("old", "new"):
        with atomic_folder(tmp_path / "cache", replace=False) as folder:
            (folder / "a").write_text(content)
    assert (tmp_path / "cache" / "a").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]


def test_a_full_disk_is_known_before_anything_is_mapped(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, before[1]))
    try:
        with pytest.raises(OSError):
            reserve(tmp_path / "pixels", 1 << 21)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    reserve(tmp_path / "pixels", 1 << 21)
    assert (tmp_path / "pixels").stat().st_size == 1 << 21
