"""torchvision's operators where it is installed; everything works without it."""

from __future__ import annotations

from functools import cache
from typing import Any


@cache
def torchvision_ops() -> Any | None:
    """The module `torchvision.ops`, or None where torchvision is missing or was built for another torch."""
    try:
        from torchvision import ops
    except (ImportError, RuntimeError):
        return None
    return ops


__all__ = ["torchvision_ops"]
