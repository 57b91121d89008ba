"""Where answers are written to, and the file of lines that is written as they come."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from pixelllm_hf.files import claim, followed, is_same_file, is_stream, open_stream

from .errors import UsageError
from .images import ImageInput

STDOUT = Path("-")


def is_stdout(path: Path | None) -> bool:
    """Whether the records go where people read: what they read then goes to standard error."""
    if path is None or path == STDOUT:
        return path == STDOUT
    return is_same_file(path, sys.stdout) and not is_same_file(os.devnull, sys.stdout)


class Records:
    """Where answers are written to. This one writes nowhere.

    files_stand_alone: that one cannot be written says nothing about the next.
    """

    files_stand_alone = False

    def add(self, image: ImageInput, results: Sequence[Any]) -> None:
        """The answers about one image."""

    def add_failure(self, **record: str) -> None:
        """What there is instead of an answer; formats of others have no place for it."""

    def close(self, *, failed: bool) -> None:
        """No more come; failed: an exception ended the run."""


class LineFile:
    """A file of lines that is valid whenever the program ends; the answers about one image come whole or not at all.

    What the file had goes when the first line is written, or stays with `keep`. Nobody else can write it meanwhile.
    Standard output, devices and pipes are written through.
    """

    def __init__(self, path: Path, *, keep: bool = False):
        self.keep, self._begun, self._created = keep, keep, False
        self.path = path
        self._file: IO[bytes] | None = None
        if is_stdout(path):
            return
        if is_stream(path):
            self._file = open_stream(path)
            self._begun = True
            return
        self.path = followed(path)
        self._open()

    def _open(self) -> None:
        self._created = not self.path.exists()
        # neither emptied nor buffered
        self._file = os.fdopen(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666), "r+b", buffering=0)
        try:
            claim(self._file)
        except BlockingIOError:
            self._file.close()
            raise UsageError(
                f"another run is writing {self.path} just now. Wait for it, or give --json another name."
            ) from None
        if self.keep:
            self._file.seek(0, os.SEEK_END)

    def reopen(self) -> None:
        """After the file has been replaced by another one."""
        assert self._file is not None
        self._file.close()
        self._open()

    def write(self, records: Sequence[Mapping[str, Any]]) -> None:
        """A line each, all in one piece; after an `OSError`, such as a full disk, the file ends before them."""
        text = "".join(json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n" for record in records)
        if self._file is None:
            sys.stdout.write(text)
            sys.stdout.flush()
            return
        if not self._begun:
            self._file.truncate(0)
            self._begun = True
        regular = self._file.seekable()
        start = self._file.tell() if regular else 0
        content = memoryview(text.encode("utf-8", "backslashreplace"))
        try:
            while content:
                content = content[self._file.write(content) :]
            self._file.flush()
        except OSError:
            if regular:
                with suppress(OSError):
                    self._file.truncate(start)
                    self._file.seek(start)
            raise

    def close(self, *, failed: bool) -> None:
        """failed: an exception ended the run; what was there before is left if nothing has been written."""
        if self._file is None:
            return
        empty = not self._begun
        if empty and not failed:
            self._file.truncate(0)
        if empty and failed and self._created:
            with suppress(OSError):
                self.path.unlink()
        self._file.close()
