"""What can be wrong with a command, and how that is said."""

from __future__ import annotations

OK, SOME_FAILED, WRONG_USAGE = 0, 1, 2


class UsageError(ValueError):
    """The command cannot be carried out as it was given."""


def first_lines(error: BaseException) -> str:
    """The message without the pages that some libraries add."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 600 else text[:600] + " …"
