"""Files that are whole or not there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO


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
