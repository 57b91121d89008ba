"""The app's own temporary folder: the only place on the disk that its requests read and write, and of bounded size."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_PREFIX = "pixelllm-demo-"
_HELD: list[int] = []  # handles of locks, open as long as this process lives


@dataclass(frozen=True)
class Bounds:
    """At most so many files and bytes, none older than so many seconds."""

    files: int
    bytes: int
    seconds: float


class BoundedFolder:
    """A folder that forgets: `trim` removes the oldest files until it is within its bounds.

    kept: files that stay whatever their age; they count for nothing.
    """

    def __init__(self, path: Path, bounds: Bounds, kept: Iterable[Path] = ()):
        self.path = path
        self.bounds = bounds
        self.kept = {Path(file).resolve() for file in kept}
        self._lock = threading.Lock()
        path.mkdir(parents=True, exist_ok=True)

    def trim(self) -> None:
        """Remove what is too old or too much, and folders that are left empty. Never fails for a file that has gone."""
        with self._lock:
            files = sorted(self._files(), reverse=True)  # the newest first
            number, total, oldest = 0, 0, time.time() - self.bounds.seconds
            for modified, size, file in files:
                number, total = number + 1, total + size
                if number > self.bounds.files or total > self.bounds.bytes or modified < oldest:
                    file.unlink(missing_ok=True)
            for folder in sorted((p for p in self.path.rglob("*") if p.is_dir()), reverse=True):
                try:
                    if time.time() - folder.stat().st_mtime > 60:  # a file may be about to be moved there
                        folder.rmdir()
                except OSError:  # not empty, or gone
                    continue

    def _files(self) -> Iterable[tuple[float, int, Path]]:
        for file in self.path.rglob("*"):
            try:
                facts = file.lstat()
            except OSError:
                continue
            if not file.is_dir() and file.resolve() not in self.kept:
                yield facts.st_mtime, facts.st_size, file


@cache
def temp_storage() -> Path:
    """The folder of this process, made now and removed at its end; those that killed demos have left are removed now.

    Gradio is told to keep its files in it, for which this must come before its components are made; what gradio reads
    of the environment when it is imported is right if this comes before that, too.
    """
    parent = Path(tempfile.gettempdir()).resolve()
    remove_left_folders(parent)
    folder = claimed_folder(parent)
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    os.environ["GRADIO_TEMP_DIR"] = str(served_folder(folder))
    os.environ["GRADIO_EXAMPLES_CACHE"] = str(folder / "examples_cache")
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["GRADIO_ALLOWED_PATHS"] = ""  # gradio takes an empty list for none given, and looks here
    served_folder(folder).mkdir()
    return folder


def claimed_folder(parent: Path) -> Path:
    """A new folder within `parent` that this process holds a lock on until it ends, however it ends."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
        handle = _locked(folder, wait=True)
        if handle is None:  # no locks here, so nobody removes what others may use
            return folder
        if folder.exists():
            _HELD.append(handle)
            return folder
        os.close(handle)  # another demo has just started and taken it for one that was left


def remove_left_folders(parent: Path) -> None:
    """Remove this user's folders within `parent` whose process has gone without doing so (killed, out of memory).

    A folder is left if its lock is free: the system frees it with the process. What belongs to others, links, and
    folders on disks without locks stay.
    """
    for folder in parent.glob(f"{_PREFIX}*"):
        handle = _locked(folder, wait=False)
        if handle is None:
            continue
        try:
            if os.fstat(handle).st_uid == os.getuid():
                shutil.rmtree(folder, ignore_errors=True)
        finally:
            os.close(handle)


def _locked(folder: Path, *, wait: bool) -> int | None:
    """A handle that holds the folder's lock; None if another process has it, or it cannot be had at all."""
    if fcntl is None:
        return None
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:  # gone, a link, no folder, somebody else's
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        return None
    return handle


def served_folder(own: Path) -> Path:
    """Uploads and files for download: gradio gives them to whoever knows their names, which cannot be guessed."""
    return own / "served"


__all__ = ["BoundedFolder", "Bounds", "claimed_folder", "remove_left_folders", "served_folder", "temp_storage"]
