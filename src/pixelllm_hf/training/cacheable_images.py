"""Images that a pixel cache can be made of: each with a name by which its row is found again."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol


class CacheableImages(Protocol):
    """names: of the images, by place; key: what the cache depends on, plain JSON; a place gives the file or its bytes.

    Another image has another name or another key. `content(place)` is the digest of an image's file, wherever it lies;
    None of one that cannot be read.
    """

    names: list[str]
    key: list[Any]

    def __getitem__(self, place: int) -> Path | bytes: ...

    def content(self, place: int) -> str | None: ...


class ImageFiles:
    """Image files, known by their absolute path, size and time."""

    def __init__(self, paths: Sequence[str | Path]):
        self.names = [os.path.abspath(path) for path in paths]
        stats = [_stat(name) for name in self.names]
        self.key = [
            (name, s.st_size, s.st_mtime_ns) if s else (name, -1, -1) for name, s in zip(self.names, stats, strict=True)
        ]

    def __getitem__(self, place: int) -> Path:
        return Path(self.names[place])

    def content(self, place: int) -> str | None:
        try:
            return hashlib.sha256(self[place].read_bytes()).hexdigest()
        except OSError:
            return None


class StoredImages:
    """Images inside rows of a data set, known by their content; the same image in several rows is one.

    rows: with a column `image` of undecoded images. indices: the rows to take. name_of: name of the image of each row
    taken, in the order of `indices`. All bytes are read once to name them, which is little beside decoding.
    """

    def __init__(self, rows: Any, indices: Sequence[int]):
        self._rows = rows.select_columns(["image"])
        self.name_of = [hashlib.sha256(self._bytes(index)).hexdigest() for index in indices]
        self._row_of: dict[str, int] = {}
        for name, index in zip(self.name_of, indices, strict=True):
            self._row_of.setdefault(name, index)
        self.names = self.key = list(self._row_of)

    def __getitem__(self, place: int) -> bytes:
        return self._bytes(self._row_of[self.names[place]])

    def content(self, place: int) -> str:
        return self.names[place]

    def _bytes(self, index: int) -> bytes:
        return self._rows[index]["image"]["bytes"]


def _stat(path: str) -> os.stat_result | None:
    try:
        return os.stat(path)
    except OSError:
        return None
