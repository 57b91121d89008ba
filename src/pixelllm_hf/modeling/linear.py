"""Linear layers on processors where torch's own matrix product leaves half of the arithmetic unused.

MKL, which torch computes products in float32 with on x86, keeps its AVX-512 kernels to Intel's processors. oneDNN,
which comes with torch too, does not ask who made one: on an AMD processor with AVX-512 it is twice as fast,
and as exact.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FEWEST_ROWS = 8  # for fewer, arranging the weights takes longer than what it saves


def linear_for(x: Tensor, weight: Tensor) -> Callable[..., Tensor]:
    """The function `(x (...,C), weight (D,C), bias (D) or nothing) -> (...,D)` for such tensors.

    It is `torch.nn.functional.linear` wherever anything but plain float32 tensors are multiplied, gradients are wanted
    (batches of texts have ever other numbers of rows, and oneDNN prepares for each anew: training was slower with it),
    or the multiplication is recorded; `torch.backends.mkldnn.flags(enabled=False)` makes it so everywhere.
    """
    if (
        not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
        and not torch.is_grad_enabled()
        and x.numel() >= FEWEST_ROWS * x.shape[-1] > 0
        and x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and type(x) is Tensor
        and type(weight) in (Tensor, nn.Parameter)
        and faster_with_onednn()
        and not torch.is_autocast_enabled("cpu")
        and torch.backends.mkldnn.enabled
    ):
        return _onednn
    return F.linear


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x (...,C), weight (D,C), bias (D) -> (...,D), as `torch.nn.functional.linear`."""
    return linear_for(x, weight)(x, weight, bias)


class Linear(nn.Linear):
    """`torch.nn.Linear`, which is what it is for whoever looks for linear layers, adapts them or quantizes them."""

    def forward(self, input: Tensor) -> Tensor:
        return linear(input, self.weight, self.bias)


def with_linear(module: Any) -> Any:
    """The module of another library, in which every plain `torch.nn.Linear` has become a `Linear`."""
    for part in module.modules():
        if type(part) is nn.Linear:
            part.__class__ = Linear
    return module


def _onednn(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    # The operator that torch.compile puts in the place of linear layers.
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


@cache
def faster_with_onednn() -> bool:
    """Whether this processor is one that MKL holds back and oneDNN does not, and this torch can call oneDNN."""
    if not (torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()):
        return False
    told = torch.cpu.get_capabilities()
    if "AMD" not in told.get("cpu_name", "").upper() or torch.backends.cpu.get_cpu_capability() != "AVX512":
        return False
    x, weight = torch.ones(FEWEST_ROWS, 4), torch.ones(2, 4)
    try:
        with torch.inference_mode():
            return torch.equal(_onednn(x, weight), F.linear(x, weight))
    except (AttributeError, RuntimeError, TypeError):  # another version's operator, under the same name or gone
        return False


__all__ = ["FEWEST_ROWS", "Linear", "faster_with_onednn", "linear", "linear_for", "with_linear"]
