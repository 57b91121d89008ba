"""Memory that is used again and again stays with the process: what glibc does with large blocks costs CPUs dearly.

It maps each afresh and gives it back when it is freed, so that every batch pays for all its pages again: half of the
time of frozen towers, and some of every training step.
"""

from __future__ import annotations

import ctypes

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # malloc.h
_LARGEST = 2**30


def keep_freed_memory() -> None:
    """From now on; where the C library is another one, nothing changes."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return
    for name in (_TRIM_THRESHOLD, _MMAP_THRESHOLD):
        mallopt(name, _LARGEST)
