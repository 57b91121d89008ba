"""Parameters, gradients and moments shared out over the processes: torch's `fully_shard` (FSDP2), on any device.

accelerate's own FSDP is left alone: on CPUs it silently is plain data parallelism. What is saved is always whole, under
the names of the plain model, so that a run may go on with any number of processes, sharded or not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

_WHOLE = "_whole_state_dict"


def shard(model: nn.Module, device: torch.device, processes: int) -> None:
    """Share the parameters out, in place: each block of `_no_split_modules` by itself, and the rest as one."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    names = set(getattr(model, "_no_split_modules", None) or ())
    mesh = init_device_mesh(device.type, (processes,))
    for module in list(model.modules()):
        if type(module).__name__ in names:
            fully_shard(module, mesh=mesh)
    fully_shard(model, mesh=mesh)
    if hasattr(model, "generate"):
        register_fsdp_forward_method(model, "generate")


def is_sharded(model: nn.Module) -> bool:
    return any(isinstance(parameter, DTensor) for parameter in model.parameters())


def share_held_here(model: nn.Module) -> float:
    """How much of the model's parameters this process holds."""
    held = sum(p.to_local().numel() if isinstance(p, DTensor) else p.numel() for p in model.parameters())
    return held / max(sum(p.numel() for p in model.parameters()), 1)


def whole(tensor: Tensor) -> Tensor:
    """The tensor with what the other processes hold of it; all processes must ask together."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def like(tensor: Tensor, reference: Tensor) -> Tensor:
    """A whole tensor, the same in all processes, with the type, the device and the sharing of another; a copy."""
    if isinstance(reference, DTensor):
        moved = tensor.to(device=reference.device, dtype=reference.dtype, copy=True)
        return distribute_tensor(moved, reference.device_mesh, reference.placements, src_data_rank=None)
    return tensor.to(reference, copy=True)


@contextmanager
def gathered(model: nn.Module, *, keep: Callable[[str], bool] = lambda name: True) -> Iterator[None]:
    """Within the block `whole_state_dict` gives a sharded model's tensors in the main process, on the CPU.

    All processes enter it together; the others drop what passes through them. keep: names that are wanted.
    """
    if not is_sharded(model):
        yield
        return
    main = torch.distributed.get_rank() == 0
    tensors: dict[str, Tensor] = {}
    seen: dict[int, str] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if not keep(name):
            continue
        if id(tensor) in seen:  # tied
            if main:
                tensors[name] = tensors[seen[id(tensor)]]
            continue
        seen[id(tensor)] = name
        full = whole(tensor.detach())
        if main:
            tensors[name] = full.cpu()
        del full
    setattr(model, _WHOLE, tensors)
    try:
        yield
    finally:
        delattr(model, _WHOLE)


def whole_state_dict(model: nn.Module) -> Mapping[str, Tensor]:
    """The model's tensors by name; of a sharded model within `gathered` alone, in the main process."""
    if not is_sharded(model):
        return model.state_dict()
    return getattr(model, _WHOLE)


def summary(model: nn.Module, processes: int) -> str:
    total = sum(p.numel() for p in model.parameters())
    return f"sharded over {processes} processes: this one holds {share_held_here(model):.1%} of {total / 1e6:.2f} M"


__all__ = ["gathered", "is_sharded", "like", "shard", "share_held_here", "summary", "whole", "whole_state_dict"]
