"""Folders that are whole or not there, and that one process at a time writes.

Locks are the operating system's (`flock`): they end with the process that holds them, so a kill leaves none behind.
Where the system has none (Windows, some network file systems) folders are not guarded.
"""

from __future__ import annotations

import errno
import os
import shutil
import socket
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

try:
    import fcntl
except ImportError:  # Windows
    fcntl: Any = None  # type: ignore[no-redef]

LOCK = ".lock"
_NO_LOCKS_HERE = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}
_held: set[int] = set()


class FolderInUseError(RuntimeError):
    """Another process is writing in the folder."""


@contextmanager
def folder_lock(folder: str | Path, doing: str) -> Iterator[None]:
    """Keep `folder`, made if need be, to this process; `FolderInUseError` names who has it already.

    doing: what the others are told, e.g. "training". The lock is the file `.lock` in the folder, which stays, empty.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with _opened(folder / LOCK, os.O_RDWR | os.O_CREAT) as descriptor:
        if not _take(descriptor):
            holder = os.read(descriptor, 300).decode("utf-8", "replace").strip() or "another process"
            raise FolderInUseError(
                f"{str(folder)!r} is in use by {holder}. Wait until that has ended, or name another folder."
            )
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{doing}, process {os.getpid()} on {socket.gethostname()}\n".encode())
        try:
            yield
        finally:
            os.ftruncate(descriptor, 0)


@contextmanager
def atomic_folder(target: Path, *, replace: bool = True) -> Iterator[Path]:
    """A temporary sibling of `target` to write into; on leaving it is flushed to disk and renamed to `target`.

    An exception or a kill while writing leaves `target` as it was; it never holds half a folder. What is there already
    is replaced, or else kept. The sibling is locked meanwhile, so that `remove_leftovers` of others leaves it alone.
    """
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    token = uuid.uuid4().hex[:12]  # process numbers repeat between machines and containers that share a folder
    temporary = target.parent / f".{target.name}.{token}.tmp"
    temporary.mkdir()
    try:
        with _opened(temporary, os.O_RDONLY) as descriptor:
            _take(descriptor)
            yield temporary
            for path in sorted(temporary.rglob("*"), reverse=True):
                _sync(path)
            _sync(temporary)
            if target.exists() and not replace:
                shutil.rmtree(temporary)
            elif target.exists():  # rename cannot replace a full folder: put the old one aside first
                aside = target.parent / f".{target.name}.{token}.old.tmp"
                target.rename(aside)
                temporary.rename(target)
                shutil.rmtree(aside, ignore_errors=True)
            else:
                temporary.rename(target)
            _sync(target.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def remove_leftovers(folder: Path, name: str = "*") -> None:
    """Delete what killed processes left half-written in `folder`, or put back what they had only laid aside.

    name: of the folders and files that were to be made. What a living process is writing stays.
    """
    for path in sorted(folder.glob(f".{name}.tmp*")) if folder.is_dir() else ():
        if path.is_dir() and _is_held(path):
            continue
        target = path.with_name(path.name[1:].rsplit(".", 3)[0])
        if path.name.endswith(".old.tmp") and not target.exists():
            path.rename(target)
        elif path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def built_once(folder: Path, build: Callable[[Path], None]) -> Path:
    """`folder`, filled by `build(temporary folder)` if it is not there; others who want it meanwhile wait for it."""
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _opened(folder.with_name(f".{folder.name}.lock"), os.O_RDWR | os.O_CREAT) as descriptor:
            _take(descriptor, wait=True)
            if not folder.is_dir():
                remove_leftovers(folder.parent, f"{folder.name}.*")
                with atomic_folder(folder) as temporary:
                    build(temporary)
    return folder


def reserve(file: Path, size: int) -> None:
    """A new file of `size` bytes, its space taken: a full disk is an `OSError` now, not a crash when it is mapped."""
    with open(file, "wb") as stream:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(stream.fileno(), 0, max(size, 1))
        else:
            stream.truncate(max(size, 1))


@contextmanager
def _opened(path: Path, flags: int) -> Iterator[int]:
    descriptor = os.open(path, flags, 0o666) if fcntl is not None or flags & os.O_CREAT else -1
    if descriptor >= 0:
        _held.add(descriptor)
    try:
        yield descriptor
    finally:
        if descriptor in _held:
            _held.discard(descriptor)
            with suppress(AttributeError, OSError):  # no locks here
                fcntl.flock(descriptor, fcntl.LOCK_UN)  # closing is not enough where a child has the descriptor yet
            os.close(descriptor)


def _take(descriptor: int, *, wait: bool = False) -> bool:
    """Lock an open file or folder; False if another has it."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS_HERE:
            raise
    return True


def _is_held(folder: Path) -> bool:
    try:
        with _opened(folder, os.O_RDONLY) as descriptor:
            return not _take(descriptor)
    except FileNotFoundError:  # it has become what it was to be
        return True


def _close_in_child() -> None:
    """A forked loader process must not keep a lock when the process that took it is gone."""
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_in_child)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
