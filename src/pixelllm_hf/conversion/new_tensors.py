"""What no published part fills, started as a new model starts it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from .assembly_plan import Plan, empty_model
from .weight_sources import DTYPES


def new_tensors(plan: Plan, seed: int) -> dict[str, Tensor]:
    """The tensors of a plan that have no origin, by name; nothing else of the model takes memory."""
    wanted = {name for name, planned in plan.tensors.items() if planned.origin is None}
    model = empty_model(plan.config)
    tensors: dict[str, Tensor] = {}
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        for at, module in model.named_modules():
            own = {f"{at}.{name}" if at else name: name for name, _ in _own_tensors(module)}
            if not wanted & own.keys():
                continue
            module.to_empty(device="cpu", recurse=False)
            model._init_weights(module)
            fresh = dict(_own_tensors(module))
            tensors |= {full: fresh[name].detach() for full, name in own.items() if full in wanted}
    missing = wanted - tensors.keys()
    assert not missing, f"nothing starts {sorted(missing)[:3]}"
    return {name: tensor.to(DTYPES[plan.tensors[name].dtype]) for name, tensor in tensors.items()}


def _own_tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from module.named_parameters(recurse=False)
    yield from module.named_buffers(recurse=False)


def parts_of(plan: Plan) -> Counter[str]:
    """Parameters that start anew, by the part of the model."""
    return Counter(
        {
            part: sum(p.num_values for n, p in plan.tensors.items() if p.origin is None and n.startswith(f"{part}."))
            for part in dict.fromkeys(n.split(".")[0] for n, p in plan.tensors.items() if p.origin is None)
        }
    )
