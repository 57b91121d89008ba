"""The device that a model runs on, and the precision that it is fast in there."""

from __future__ import annotations

import re
import time
from difflib import get_close_matches
from functools import cache
from statistics import median
from typing import Any

from .errors import ModelError, first_lines

AUTO = "auto"
# Those that torch knows and that numbers can be computed on.
_KINDS = ("cpu", "cuda", "mps", "xpu", "hpu", "mtia", "npu", "xla")
_OTHER_NAMES = {"gpu": "cuda", "nvidia": "cuda", "rocm": "cuda", "hip": "cuda", "metal": "mps", "tpu": "xla"}
_SIDE, _REPEATS = 512, 5
# What remains of the gain after casts and norms; less of it is noise of other programs.
_WORTH_IT = 1.5


def check_device_name(name: str) -> str:
    """The name, if a device can be called so; else a `ModelError` with those that can. Does not need torch."""
    kind = re.fullmatch(r"([a-z]+)(:\d+)?", name)
    if kind and (kind[1] in _KINDS or name == AUTO):
        return name
    wrong = name.lower().partition(":")[0]
    near = _OTHER_NAMES.get(wrong) or next(iter(get_close_matches(wrong, (*_KINDS, AUTO), n=1)), None)
    hint = f" Did you mean {near}?" if near else ""
    raise ModelError(
        f"the device must be auto (the accelerator if there is any), cpu, cuda, cuda:0 or mps (or another kind that "
        f"torch knows: {', '.join(_KINDS[3:])}), but it is {name!r}.{hint}"
    )


def find_device(name: str) -> Any:
    """The torch device, tried out; a `ModelError` if it is not there."""
    import torch

    if check_device_name(name) == AUTO:
        return torch.accelerator.current_accelerator() or torch.device("cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
        return device
    except (RuntimeError, AssertionError, ImportError) as error:
        raise ModelError(f"the device {name!r} cannot be used: {first_lines(error)}") from error


@cache
def cpu_is_faster_in(dtype: str) -> bool:
    """Whether this processor is than in float32, by a matrix product timed in both, once a process and type.

    With AMX or AVX-512 BF16 it is in bfloat16, hardly in float16.
    """
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
