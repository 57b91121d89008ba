"""What can be wrong with a command, and how that is said."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

OK, SOME_FAILED, WRONG_USAGE = 0, 1, 2


class UsageError(ValueError):
    """The command cannot be carried out as it was given."""


class Terminated(KeyboardInterrupt):
    """The system, or somebody, asks the command to end: as with Ctrl-C what is done is kept."""

    def __init__(self, number: int):
        super().__init__(signal.Signals(number).name)
        self.exit_code = 128 + number


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """SIGTERM, and SIGHUP of a terminal that is closed, raise `Terminated`; SIGINT raises its parent already."""
    names = [name for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    if threading.current_thread() is not threading.main_thread():  # where signals do not come
        yield
        return

    def end(number: int, frame: object) -> None:
        raise Terminated(number)

    before = {name: signal.getsignal(getattr(signal, name)) for name in names}
    for name, handler in before.items():
        if handler is not signal.SIG_IGN:  # as `nohup` wants it
            signal.signal(getattr(signal, name), end)
    try:
        yield
    finally:
        for name, handler in before.items():
            signal.signal(getattr(signal, name), handler)


def printable(name: str) -> str:
    """A file name as text of valid Unicode; bytes that are none are written as \\xe9.

    >>> printable(os.fsdecode(b"caf\\xe9.jpg"))
    'caf\\\\xe9.jpg'
    """
    return os.fsencode(name).decode("utf-8", "backslashreplace")
