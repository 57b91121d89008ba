"""Files that are whole or not there, and what tells them apart."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

READ_AT_ONCE = 1 << 24


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
    """A temporary sibling of `target` to write; it becomes `target` on leaving, or goes away after an exception.

    The sibling keeps the suffix, from which Pillow takes the format.
    """
    target = Path(target)
    temporary = target.with_name(f".{target.stem}.{os.getpid()}.tmp{target.suffix}")
    try:
        yield temporary
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_text(target: str | Path) -> Iterator[TextIO]:
    """`target` open for writing text; a reader sees the old file or the whole new one."""
    with atomic_path(target) as temporary, open(temporary, "w", encoding="utf-8") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
