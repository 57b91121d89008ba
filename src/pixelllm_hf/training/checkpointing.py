"""Checkpoints that are whole or absent, and the exact state of a run in safetensors and JSON (no pickle)."""

from __future__ import annotations

import json
import random
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from pixelllm_hf import folders
from pixelllm_hf.folders import atomic_folder as atomic_folder  # checkpoints are written through it
from pixelllm_hf.training.config import RunConfig
from pixelllm_hf.training.sharding import like, whole, whole_state_dict

CHECKPOINT_NAME = re.compile(r"step-(\d+)")
STATE_FOLDER = "training_state"


class CheckpointError(RuntimeError):
    """A checkpoint is incomplete, damaged, or belongs to another recipe."""


def checkpoint_path(output_dir: Path, step: int) -> Path:
    return Path(output_dir) / "checkpoints" / f"step-{step:07d}"


def list_checkpoints(output_dir: Path) -> list[Path]:
    """Complete checkpoints of a run, oldest first."""
    folder = Path(output_dir) / "checkpoints"
    found = [
        (int(match.group(1)), path)
        for path in (folder.iterdir() if folder.is_dir() else ())
        if (match := CHECKPOINT_NAME.fullmatch(path.name)) and (path / STATE_FOLDER / "state.json").is_file()
    ]
    return [path for _, path in sorted(found)]


def batches_per_step(run: RunConfig, processes: int) -> int:
    """How many batches an optimizer step has: processes times `gradient_accumulation`.

    A run that goes on with another number of processes keeps the number that it began with, and so its batches, where
    the recipe's `gradient_accumulation` is what it was; each process then accumulates more of them, or fewer.
    """
    found = list_checkpoints(Path(run.output_dir))
    chosen = Path(run.resume) if run.resume not in ("auto", "never") else found[-1] if found else None
    if chosen is not None and (chosen / STATE_FOLDER / "state.json").is_file():
        layout = load_json(chosen / STATE_FOLDER / "state.json").get("layout")
        batches = saved_batches_per_step(layout) if isinstance(layout, dict) else None
        if batches and layout.get("gradient_accumulation") == run.gradient_accumulation:
            return batches
    return processes * run.gradient_accumulation


def saved_batches_per_step(layout: dict[str, Any]) -> int | None:
    """That of a checkpoint's run; older checkpoints do not tell it themselves."""
    processes, accumulation = layout.get("num_processes"), layout.get("gradient_accumulation")
    product = processes * accumulation if isinstance(processes, int) and isinstance(accumulation, int) else None
    batches = layout.get("batches_per_step", product)
    return batches if isinstance(batches, int) and batches > 0 else None


def remove_leftovers(output_dir: Path) -> None:
    """Delete what a killed run left half-written; what a living one is writing stays."""
    for folder in (Path(output_dir), Path(output_dir) / "checkpoints"):
        folders.remove_leftovers(folder)


def keep_newest(output_dir: Path, count: int) -> None:
    for path in list_checkpoints(output_dir)[:-count]:
        shutil.rmtree(path, ignore_errors=True)


# What AdamW keeps of a parameter, and Muon.
_MOMENTS = ("step", "exp_avg", "exp_avg_sq", "momentum_buffer")


def optimizer_tensors(optimizers: Sequence[torch.optim.Optimizer]) -> dict[str, Tensor]:
    """The optimizers' states as flat tensors named `<parameter name>/<what>`; needs groups with `names`.

    Of a sharded model all processes ask together.
    """
    tensors = {}
    for optimizer, name, parameter in _owned(optimizers):
        for key, value in optimizer.state.get(parameter, {}).items():
            value = value if isinstance(value, Tensor) else torch.tensor(float(value))
            tensors[f"{name}/{key}"] = whole(value.detach()).cpu().contiguous()
    return tensors


def _owned(optimizers: Sequence[torch.optim.Optimizer]) -> Iterator[tuple[torch.optim.Optimizer, str, Tensor]]:
    """Every parameter with its name and its optimizer."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            for name, parameter in zip(group["names"], group["params"], strict=True):
                yield optimizer, name, parameter


def load_optimizer_tensors(optimizers: Sequence[torch.optim.Optimizer], tensors: dict[str, Tensor]) -> None:
    """The inverse of `optimizer_tensors`, into fresh optimizers over the same parameters."""
    left = dict(tensors)
    for optimizer, name, parameter in _owned(optimizers):
        state: dict[str, Tensor] = {}
        for full in [full for full in (f"{name}/{what}" for what in _MOMENTS) if full in left]:
            key = full.rsplit("/", 1)[1]
            value = left.pop(full)
            if key != "step" and value.shape != parameter.shape:
                raise CheckpointError(
                    f"The optimizer state of {name!r} has shape {tuple(value.shape)}, the parameter "
                    f"{tuple(parameter.shape)}. Resume with the recipe that wrote the checkpoint."
                )
            # A clone: memory-mapped tensors are unaligned, and sums must round as in the first run.
            state[key] = value.clone() if key == "step" else like(value, parameter)
        if state:
            optimizer.state[parameter] = state
    if left:
        raise CheckpointError(
            f"The optimizer state has {len(left)} entries that no trained parameter owns, e.g. {next(iter(left))!r}. "
            "Resume with the recipe that wrote the checkpoint."
        )


def random_state_tensors() -> dict[str, Tensor]:
    """The states of torch's, numpy's and Python's generators of this process, as tensors."""
    name, keys, position, has_gauss, gauss = np.random.get_state()
    assert name == "MT19937"
    version, internal, next_gauss = random.getstate()
    tensors = {
        "torch": torch.get_rng_state(),
        "numpy_keys": torch.from_numpy(np.asarray(keys, dtype=np.int64)),
        "numpy_rest": torch.tensor([float(position), float(has_gauss), float(gauss)], dtype=torch.float64),
        "python": torch.tensor([version, *internal], dtype=torch.int64),
    }
    if next_gauss is not None:
        tensors["python_gauss"] = torch.tensor(next_gauss, dtype=torch.float64)
    if torch.cuda.is_available():
        tensors["cuda"] = torch.cuda.get_rng_state()
    return tensors


def restore_random_state(tensors: dict[str, Tensor]) -> None:
    torch.set_rng_state(tensors["torch"].clone())
    position, has_gauss, gauss = tensors["numpy_rest"].tolist()
    keys = tensors["numpy_keys"].numpy().astype(np.uint32)
    np.random.set_state(("MT19937", keys, int(position), int(has_gauss), gauss))
    version, *internal = tensors["python"].tolist()
    next_gauss = tensors["python_gauss"].item() if "python_gauss" in tensors else None
    random.setstate((version, tuple(internal), next_gauss))
    if "cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["cuda"].clone())


def model_tensors(model: nn.Module, *, trained_only: bool = False) -> dict[str, Tensor]:
    """The model's tensors by name, each storage once (tied weights under their first name).

    `trained_only` keeps trainable parameters and buffers: what an adapter run changes. Of a sharded model within
    `sharding.gathered`.
    """
    tensors = whole_state_dict(model)
    return {name: tensors[name].detach().cpu().contiguous() for name in stored_names(model, trained_only=trained_only)}


def stored_names(model: nn.Module, *, trained_only: bool = False) -> list[str]:
    """The names of `model_tensors`."""
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad} if trained_only else set()
    names, seen = [], set()
    for name, tensor in model.state_dict(keep_vars=True).items():
        key = id(tensor) if isinstance(tensor, DTensor) else (tensor.data_ptr(), tensor.shape)
        if name in frozen or (key in seen and tensor.numel()):
            continue
        seen.add(key)
        names.append(name)
    return names


@torch.no_grad()
def load_model_tensors(model: nn.Module, tensors: dict[str, Tensor], *, trained_only: bool = False) -> None:
    """Copy tensors of `model_tensors` into the model in place; names and shapes must fit exactly."""
    expected = set(stored_names(model, trained_only=trained_only))
    missing, unknown = sorted(expected - set(tensors)), sorted(set(tensors) - expected)
    if missing or unknown:
        raise CheckpointError(
            f"The checkpoint's weights do not fit the model: {len(missing)} missing {missing[:3]}, "
            f"{len(unknown)} unknown {unknown[:3]}. Resume with the recipe that wrote the checkpoint."
        )
    own = model.state_dict(keep_vars=True)
    for name, tensor in tensors.items():
        if own[name].shape != tensor.shape:
            raise CheckpointError(
                f"The checkpoint's {name!r} has shape {tuple(tensor.shape)}, the model's {tuple(own[name].shape)}. "
                "Resume with the recipe that wrote the checkpoint."
            )
        own[name].copy_(like(tensor, own[name]) if isinstance(own[name], DTensor) else tensor)


def save_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """A safetensors file; tensors that share memory are written once each."""
    contents = {name: tensor.contiguous() for name, tensor in tensors.items()}
    try:
        save_file(contents, str(path), metadata={"format": "pt"})
    except SafetensorError as error:  # the library wraps what the system said: a full disk, a quota
        raise OSError(f"{str(path)!r} cannot be written ({error})") from error


def load_tensors(path: Path) -> dict[str, Tensor]:
    """A safetensors file in memory; a missing or damaged one raises `CheckpointError` naming it."""
    try:
        with safe_open(str(path), framework="pt"):
            pass
        return load_file(str(path))
    except Exception as error:
        raise CheckpointError(
            f"The checkpoint file {str(path)!r} cannot be read ({error}). "
            "Delete that checkpoint folder to continue from the one before it."
        ) from error


def load_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError(f"a {type(content).__name__} where an object is expected")
        return content
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"The checkpoint file {str(path)!r} cannot be read ({error}). "
            "Delete that checkpoint folder to continue from the one before it."
        ) from error
