"""What the demo uses of gradio that gradio does not promise to keep is looked for before it is used."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

MADE_FOR = "6.31"


class UnknownGradioError(ImportError):
    """The installed gradio lacks something that the demo, or its safety, rests on."""


def internal(owner: Any, name: str) -> Any:
    """The attribute `name` of one of gradio's objects or classes; an `UnknownGradioError` if this version has none.

    Set without looking, a name that gradio has changed would do nothing, and nobody would notice.
    """
    if not hasattr(owner, name):
        where = getattr(owner, "__name__", type(owner).__name__)
        raise UnknownGradioError(
            f"the demo is made for gradio {MADE_FOR}, but {version('gradio')} is installed, which has no "
            f'{where}.{name}. Install one that it knows: pip install "gradio[mcp]~={MADE_FOR}.0"'
        )
    return getattr(owner, name)


__all__ = ["MADE_FOR", "UnknownGradioError", "internal"]
