"""What can be wrong with a command, and how that is said."""

from __future__ import annotations

OK, SOME_FAILED, WRONG_USAGE = 0, 1, 2


class UsageError(ValueError):
    """The command cannot be carried out as it was given."""
