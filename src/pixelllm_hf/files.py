"""Files that are whole or not there, streams that are written through, and what tells files apart."""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TextIO

READ_AT_ONCE = 1 << 24
_MOST_LINKS = 40  # as the kernel
_LONGEST_STEM = 32  # characters of up to four bytes; a name may have 255 bytes


def sha256_of_files(files: Iterable[Path]) -> str:
    """SHA-256 over the files one after the other, sorted by name. An evaluation names the weights it measured so."""
    digest = hashlib.sha256()
    for file in sorted(files):
        with open(file, "rb") as stream:
            while piece := stream.read(READ_AT_ONCE):
                digest.update(piece)
    return digest.hexdigest()


@contextmanager
def atomic_path(target: str | Path) -> Iterator[Path]:
    """A temporary file to write; it becomes `target` on leaving, or goes away after an exception.

    It keeps the suffix, from which Pillow takes the format. A symbolic link stays, and what it points to is written; a
    file that was there keeps its permissions. Into what is no regular file (a device, a pipe, standard output under
    any name) the content is written on leaving. `OSError` for what cannot be written, before anything is yielded.
    """
    target = Path(target)
    if is_stream(target):
        with tempfile.TemporaryDirectory() as folder:
            temporary = Path(folder, f"stream{_short(target.suffix)}")
            yield temporary
            with open(temporary, "rb") as written, open_stream(target) as stream:
                shutil.copyfileobj(written, stream)
        return
    target = followed(target)
    mode = _mode_of_writable(target)
    name = f".{target.stem[:_LONGEST_STEM]}.{os.getpid()}-{secrets.token_hex(4)}.tmp{_short(target.suffix)}"
    temporary = target.with_name(name)
    try:
        yield temporary
        if mode is not None:
            os.chmod(temporary, mode)
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_text(target: str | Path) -> Iterator[TextIO]:
    """`target` open for writing text; a reader sees the old file or the whole new one. Streams get it as it comes."""
    if is_stream(target):
        with open_stream(target) as stream, os.fdopen(os.dup(stream.fileno()), "w", encoding="utf-8") as file:
            yield file
        return
    with atomic_path(target) as temporary, open(temporary, "w", encoding="utf-8") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


def is_stream(path: str | Path) -> bool:
    """Whether what is there can only be written through: a device, a pipe, a socket, an open file of a process."""
    if _followed(Path(path)) is None:
        return True
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def open_stream(path: str | Path) -> IO[bytes]:
    """A stream open for writing. Standard output is not opened a second time, which would write over what it has."""
    for ours in (sys.__stdout__, sys.__stderr__):
        if ours is not None and is_same_file(path, ours):
            ours.flush()
            return os.fdopen(os.dup(ours.fileno()), "wb")
    return open(path, "wb")


def is_same_file(path: str | Path, stream: TextIO) -> bool:
    """Whether `path` names the file, pipe or device that `stream` writes to."""
    with suppress(OSError, ValueError, AttributeError):  # not there; closed, or no file at all
        return os.path.samestat(os.stat(path), os.fstat(stream.fileno()))
    return False


def followed(path: str | Path) -> Path:
    """The file that a path means, after all symbolic links of its last part; it need not exist."""
    target = _followed(Path(path))
    if target is None:
        raise OSError(errno.EINVAL, "is a stream, which has no other name", str(path))
    return target


def _followed(path: Path) -> Path | None:
    """None where links lead to an open file of a process: /dev/stdout, /dev/fd/63."""
    for _ in range(_MOST_LINKS):
        folder = os.path.realpath(path.parent)
        if folder.startswith("/proc/") or folder == "/dev/fd":
            return None
        try:
            path = path.parent / os.readlink(path)
        except OSError:  # no link
            return path
    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))


def _mode_of_writable(target: Path) -> int | None:
    """The permissions of a file that will be replaced; None if there is none. Replacing would not ask for them."""
    try:
        mode = os.stat(target).st_mode
    except FileNotFoundError:
        return None
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(target))
    if not os.access(target, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(target))
    return stat.S_IMODE(mode)


def _short(suffix: str) -> str:
    return suffix if len(suffix) <= _LONGEST_STEM else ""


def claim(file: IO) -> None:
    """Hold an open file until it is closed; `BlockingIOError` if another process, or another opening, holds it.

    Where the system has no such locks nothing is held.
    """
    try:
        import fcntl
    except ImportError:
        return
    try:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:  # a file system without locks
        return
