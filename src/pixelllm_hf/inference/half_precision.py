"""Whether this processor is faster in half precision: with AMX or AVX-512 BF16 it is in bfloat16, hardly in float16."""

from __future__ import annotations

import time
from functools import cache
from statistics import median

_SIDE, _REPEATS = 512, 5
# What remains of the gain after casts and norms; less of it is noise of other programs.
_WORTH_IT = 1.5


@cache
def cpu_is_faster_in(dtype: str) -> bool:
    """Whether it is than in float32, by a matrix product that is timed in both, once a process and type."""
    return dtype != "float32" and matmul_seconds("float32") > _WORTH_IT * matmul_seconds(dtype)


def matmul_seconds(dtype: str) -> float:
    """The median time of a matrix product of the size that a language model's layers have."""
    import torch

    left = torch.ones(_SIDE, _SIDE, dtype=getattr(torch, dtype))
    right = left.t().contiguous()
    times = []
    with torch.inference_mode():
        left @ right  # the first one prepares the kernel
        for _ in range(_REPEATS):
            began = time.perf_counter()
            left @ right
            times.append(time.perf_counter() - began)
    return median(times)
