"""A golden file, and what it means for computed values to agree with it.

A golden file is a safetensors file with `params/…`, `inputs/…` and `outputs/…` and, in its metadata, the
hyper-parameters as JSON. It was made by the official implementation.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

VALUE_TOLERANCE = 1e-4
GRADIENT_TOLERANCE = 1e-3


class Golden:
    """One golden file, read whole."""

    def __init__(self, name: str, hparams: dict[str, Any], tensors: Mapping[str, Tensor]):
        self.name = name
        self.hparams = hparams
        self.params = _below("params/", tensors)
        self.inputs = _below("inputs/", tensors)
        self.outputs = _below("outputs/", tensors)

    @classmethod
    def read(cls, path: Path) -> Golden:
        """Raises ValueError, naming the file, if it is no golden file."""
        try:
            with safe_open(path, "pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
            return cls(path.stem, json.loads(metadata["hparams"]), tensors)
        except (OSError, SafetensorError, KeyError, json.JSONDecodeError) as error:
            raise ValueError(
                f"a golden file must be safetensors with JSON in its metadata entry 'hparams', but {path} is not "
                f"({type(error).__name__}: {error}). Copy it again from the golden set."
            ) from error

    def below(self, prefix: str) -> dict[str, Tensor]:
        """The inputs whose name starts with prefix, without it."""
        return _below(prefix, self.inputs)


@dataclass
class Computed:
    """Our side of a golden file: values by the names of its outputs.

    valid marks, for some outputs, the entries that mean anything; ranges tells of outputs that are too short to show
    over what range they move; `later` names outputs that need parts of later work (a trailing '/' names all below it)
    and says which.
    """

    values: dict[str, Any] = field(default_factory=dict)
    valid: dict[str, Tensor] = field(default_factory=dict)
    ranges: dict[str, float] = field(default_factory=dict)
    later: dict[str, str] = field(default_factory=dict)

    def add(self, values: Mapping[str, Any], prefix: str = "") -> None:
        self.values.update({prefix + name: value for name, value in values.items()})

    def why_later(self, name: str) -> str | None:
        for stem, reason in self.later.items():
            if name == stem or (stem.endswith("/") and name.startswith(stem)):
                return reason
        return None


@dataclass(frozen=True)
class Agreement:
    """How one output agrees: the largest error, absolute and relative to the golden output's range."""

    name: str
    max_abs: float
    max_rel: float
    tolerance: float
    problem: str = ""

    @property
    def ok(self) -> bool:
        return not self.problem and self.max_rel <= self.tolerance

    @property
    def load(self) -> float:
        """The error in units of what is allowed; a mismatch that no tolerance forgives is infinite."""
        if self.problem:
            return float("inf")
        return self.max_rel / self.tolerance if self.tolerance else (0.0 if self.max_abs == 0 else float("inf"))

    def to_dict(self) -> dict[str, Any]:
        numbers = {name: value if value != float("inf") else None for name, value in asdict(self).items()}
        return {**numbers, "ok": self.ok}  # JSON knows no infinity


def compare(
    name: str, golden: Tensor, computed: Any, valid: Tensor | None = None, value_range: float | None = None
) -> Agreement:
    """Integers and masks must be equal; floats may differ by a small part of value_range, the golden output's own."""
    ours = torch.as_tensor(computed).detach()
    is_float = golden.is_floating_point()
    tolerance = (GRADIENT_TOLERANCE if "/grad/" in f"/{name}" else VALUE_TOLERANCE) if is_float else 0.0
    if ours.numel() == golden.numel() == 1:
        ours = ours.reshape(golden.shape)
    if ours.shape != golden.shape:
        problem = f"shape {tuple(ours.shape)} instead of {tuple(golden.shape)}"
        return Agreement(name, float("inf"), float("inf"), tolerance, problem)
    if valid is not None:
        keep = valid.bool().expand(golden.shape)
        ours, golden = ours[keep], golden[keep]
    ours, golden = ours.double(), golden.double()
    if not golden.numel():
        return Agreement(name, 0.0, 0.0, tolerance)
    if not torch.isfinite(ours).all():
        return Agreement(name, float("inf"), float("inf"), tolerance, "not finite")
    max_abs = (ours - golden).abs().max().item()
    return Agreement(name, max_abs, max_abs / (value_range or range_of(golden)), tolerance)


def range_of(values: Tensor) -> float:
    """Largest minus smallest value; for a constant, its size; 1 for zeros."""
    spread = (values.max() - values.min()).item()
    return spread or values.abs().max().item() or 1.0


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensors[name] for name in _starting(prefix, tensors)}


def _starting(prefix: str, names: Iterable[str]) -> list[str]:
    return [name for name in names if name.startswith(prefix)]


__all__ = ["GRADIENT_TOLERANCE", "VALUE_TOLERANCE", "Agreement", "Computed", "Golden", "compare", "range_of"]
