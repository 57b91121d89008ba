"""What can go wrong with a model."""

from __future__ import annotations


class ModelError(ValueError):
    """The model cannot be loaded, or cannot do what is asked."""


class TooSlowError(RuntimeError):
    """The answer was stopped because its time was up."""


def first_lines(error: BaseException) -> str:
    """The message without the pages that some libraries add."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 600 else text[:600] + " …"
