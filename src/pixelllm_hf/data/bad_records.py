"""What is wrong with annotation files, and how it is refused or counted."""

from __future__ import annotations

from collections import Counter
from typing import Literal

OnError = Literal["raise", "skip"]


class AnnotationFileError(ValueError):
    """A file that no record can be read from: not JSON, of another layout, damaged, without the split asked for."""


class BadRecordError(ValueError):
    """A record that a reader cannot use. Says where it is, what is wrong and what to do.

    `reason` is a short constant key ("unordered times"), for counting.
    """

    def __init__(self, reason: str, where: str, problem: str, remedy: str):
        super().__init__(_writable(f"{where}: {problem} {remedy}"))
        self.reason = reason


class ReadReport:
    """What a reader kept and what it dropped, by reason. Pass one in to look at it after reading.

    `first` holds the first message of every reason, so that the summary points at a record to look at.
    """

    def __init__(self) -> None:
        self.kept = 0
        self.read: Counter[str] = Counter()  # records in, by kind
        self.dropped: Counter[str] = Counter()
        self.first: dict[str, str] = {}

    def drop(self, error: BadRecordError, on_error: OnError) -> None:
        """Count `error`, or raise it when that is what the caller asked for."""
        if on_error == "raise":
            raise error
        self.leave_out(error.reason, str(error))

    def leave_out(self, reason: str, where: str) -> None:
        """Count what is no mistake of the file, but nothing for the task: a crowd, a name that fits two objects."""
        self.dropped[reason] += 1
        self.first.setdefault(reason, _writable(where))

    def summary(self) -> str:
        """One line: kept, dropped, and the count and first example of every reason."""
        reasons = "; ".join(f"{count} {reason} (first: {self.first[reason]})" for reason, count in self.dropped.items())
        return f"kept {self.kept}, dropped {sum(self.dropped.values())}" + (f": {reasons}" if reasons else "")


def check_on_error(on_error: str) -> None:
    """Refuse a misspelt `on_error` before any record is read."""
    if on_error not in ("raise", "skip"):
        raise ValueError(f"on_error must be 'raise' or 'skip', but it is {on_error!r}.")


def check_task(task: str, tasks: tuple[str, ...]) -> None:
    """Refuse a task that the format has nothing for before any record is read."""
    if task not in tasks:
        raise ValueError(f"these records serve the task {' or '.join(map(repr, tasks))}, but it is {task!r}.")


def _writable(message: str) -> str:
    """The message as any terminal and file takes it: names of files and records may hold half characters."""
    return message.encode("utf-8", "backslashreplace").decode()
