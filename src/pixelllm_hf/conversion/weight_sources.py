"""Weights that others have published, tensor by tensor: one file or shards, safetensors or pickle, here or on the Hub.

What a source holds is known from its headers; a tensor is in memory only while its reader keeps it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import pickle
import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pixelllm_hf.safetensors_files import StoredTensor, WeightsError, read_layout

PICKLES = (".pth", ".pt", ".bin")
SUFFIXES = (".safetensors", *PICKLES)
# In this order: where a folder has its weights in both ways, safetensors are taken.
_WHOLE = ("model.safetensors.index.json", "model.safetensors", "pytorch_model.bin.index.json", "pytorch_model.bin")
_NESTED = ("state_dict", "model", "module", "model_state_dict")  # where training scripts put the weights
_SETTINGS = ("*.json", "*.model", "*.jinja", "*.txt")  # .txt: word lists and merges
_POINTER = b"version https://git-lfs"  # what a clone without Git LFS has in place of a large file
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}


class WeightSourceError(ValueError):
    """Weights that are not there, are damaged, or are no plain tensors."""


@dataclass
class WeightSource:
    """One published part. tensors: shape and type of each by its name; `read` gives one of them.

    name: what the user called it. folder: where its `config.json` and tokenizer would lie.
    """

    name: str
    folder: Path
    files: tuple[Path, ...]
    tensors: dict[str, StoredTensor | PickledTensor]
    _opened: tuple[Path, dict[str, Tensor]] | None = field(default=None, repr=False)

    def read(self, name: str) -> Tensor:
        stored = self.tensors[name]
        if isinstance(stored, StoredTensor):
            if not stored.num_bytes:
                return torch.zeros(stored.shape, dtype=DTYPES[stored.dtype])
            content = bytearray(stored.num_bytes)
            with open(stored.file, "rb") as file:
                file.seek(stored.start)
                if file.readinto(content) != stored.num_bytes:
                    raise WeightSourceError(f"{stored.file} became shorter while it was read.")
            return torch.frombuffer(content, dtype=DTYPES[stored.dtype]).reshape(stored.shape)
        if self._opened is None or self._opened[0] != stored.file:
            self._opened = None  # first, so that no two files are in memory
            self._opened = stored.file, _unpickled(stored.file, "cpu")
        tensor = self._opened[1].get(name)
        if tensor is None or tensor.is_meta or tuple(tensor.shape) != stored.shape:
            raise WeightSourceError(f"{name} in {stored.file} has no content, or has changed. Copy the file again.")
        return tensor

    def close(self) -> None:
        self._opened = None

    def fingerprint(self) -> str:
        """Changes with what the source holds, without reading it all: names, sizes and times of its files."""
        states = [(file.name, (state := file.stat()).st_size, state.st_mtime_ns) for file in self.files]
        return hashlib.sha256(repr(states).encode()).hexdigest()

    @property
    def largest_file(self) -> int:
        return max(file.stat().st_size for file in self.files)


@dataclass(frozen=True)
class PickledTensor:
    """A tensor of a pickle."""

    file: Path
    dtype: str
    shape: tuple[int, ...]

    @classmethod
    def of(cls, file: Path, tensor: Tensor) -> PickledTensor:
        kind = DTYPE_NAMES.get(tensor.dtype, str(tensor.dtype))
        if tensor.layout != torch.strided or tensor.is_quantized:
            kind = f"{tensor.layout}, {tensor.dtype}"
        return cls(file, kind, tuple(tensor.shape))


def find_weights(name: str) -> WeightSource:
    """The weights that a user means: a file, a folder, `org/name` of the Hub, or `org/name/path/to/file` there.

    A folder has `model.safetensors` or `pytorch_model.bin`, or their shards with an index, or a single file of
    weights. Anything missing or damaged is a `WeightSourceError`.
    """
    path = Path(name).expanduser()
    try:
        if not path.exists():
            path = _from_hub(name)
        folder = path if path.is_dir() else path.parent
        files = _files_of(path)
        tensors: dict[str, StoredTensor | PickledTensor] = {}
        for file in files:
            for key, tensor in _layout(file).items():
                if key in tensors:
                    raise WeightSourceError(f"{key} is in {tensors[key].file} and in {file}. Which one counts?")
                tensors[key] = tensor
    except WeightsError as error:
        raise WeightSourceError(str(error)) from error
    except OSError as error:
        raise WeightSourceError(f"the weights {name!r} cannot be read ({' '.join(str(error).split())}).") from error
    _check_index(path, tensors)
    return WeightSource(name, folder, tuple(files), tensors)


def _files_of(path: Path) -> list[Path]:
    if path.is_file():
        if path.name.endswith(".index.json"):
            return _shards(path)
        if path.suffix not in SUFFIXES:
            raise WeightSourceError(f"{path} is no file of weights. Give one that ends in {', '.join(SUFFIXES)}.")
        return [path]
    for whole in _WHOLE:
        if (path / whole).is_file():
            return _shards(path / whole) if whole.endswith(".json") else [path / whole]
    found = sorted(file for file in path.iterdir() if file.suffix in SUFFIXES)
    if len(found) == 1:
        return found
    held = ", ".join(file.name for file in found[:6]) or "none"
    raise WeightSourceError(
        f"the folder {path} must have model.safetensors, pytorch_model.bin, shards with their index, or one file of "
        f"weights, but it has {held}. Name the file."
    )


def _weight_map(index: Path) -> dict[str, str]:
    try:
        weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        if not weight_map or any(Path(file).name != file for file in weight_map.values()):
            raise ValueError("weight_map must name a file of the folder for each tensor")
        return weight_map
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightSourceError(f"{index} is damaged ({error}). Copy it again.") from error


def _shards(index: Path) -> list[Path]:
    files = [index.parent / name for name in sorted(set(_weight_map(index).values()))]
    for file in files:
        if not file.is_file():
            raise WeightSourceError(f"{index.name} names {file.name}, which {index.parent} lacks. Copy it as well.")
    return files


def _check_index(path: Path, tensors: Mapping[str, Any]) -> None:
    """A shard that was cut by its maker lacks tensors that the index has."""
    indices = [path] if path.is_file() else [path / name for name in _WHOLE[:1] if (path / name).is_file()]
    for index in indices:
        if index.name.endswith(".index.json"):
            missing = [name for name in _weight_map(index) if name not in tensors]
            if missing:
                raise WeightSourceError(
                    f"{index} names {len(missing)} tensors that its shards lack, e.g. {missing[0]}. Copy them again."
                )


def _layout(file: Path) -> Mapping[str, StoredTensor | PickledTensor]:
    with open(file, "rb") as stream:
        beginning = stream.read(len(_POINTER))
    if beginning == _POINTER:
        raise WeightSourceError(f"{file} is a pointer of Git LFS and not the weights. Fetch those: git lfs pull.")
    if file.suffix == ".safetensors":
        layout = read_layout(file)
        for name, tensor in layout.items():
            known = DTYPES.get(tensor.dtype)
            if known is not None and tensor.num_bytes != tensor.num_values * known.itemsize:
                raise WeightSourceError(f"{name} in {file} has {tensor.num_bytes} bytes. Copy the file again.")
        return layout
    if not beginning.startswith((b"PK", b"\x80")):
        raise WeightSourceError(f"{file} is no file of weights: torch.save writes none like it. Get it again.")
    return {name: PickledTensor.of(file, tensor) for name, tensor in _unpickled(file, "meta").items()}


def _unpickled(file: Path, device: str) -> dict[str, Tensor]:
    """The tensors of a pickle that holds tensors and nothing that could run; mapped into memory where it can be."""
    try:
        content = _loaded(file, device)
    except pickle.UnpicklingError as error:
        raise WeightSourceError(
            f"{file} holds more than tensors, which could be code, and is not read. Convert it to safetensors where "
            "you trust it."
        ) from error
    except (RuntimeError, EOFError, ValueError, LookupError, AttributeError, TypeError) as error:
        told = " ".join(str(error).split())[:200] or type(error).__name__
        raise WeightSourceError(f"{file} is no whole file of weights ({told}). Copy it again.") from error
    while isinstance(content, Mapping):
        tensors = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
        inner = next((content[key] for key in _NESTED if isinstance(content.get(key), Mapping)), None)
        if inner is None or any("." in name for name in tensors):
            if tensors:
                return tensors
            break
        content = inner
    raise WeightSourceError(f"{file} has no tensors by their names. Give the file of a state dict.")


def _loaded(file: Path, device: str) -> Any:
    # Training scripts put their arguments beside the weights; a Namespace is a record and runs nothing.
    with warnings.catch_warnings(), torch.serialization.safe_globals([argparse.Namespace]):
        warnings.simplefilter("ignore")  # about the pickle's age
        try:
            return torch.load(file, map_location=device, weights_only=True, mmap=True)
        except RuntimeError as error:
            if "mmap" not in str(error):  # files of torch before 1.6 cannot be mapped
                raise
            return torch.load(file, map_location=device, weights_only=True)


def _from_hub(name: str) -> Path:
    """A repository of the Hub, or one file of it; every byte of a repository is compared."""
    if not re.fullmatch(r"[\w.-]+/[\w.-]+(/[\w.-]+)*", name) or ".." in name:
        raise WeightSourceError(f"there is no {name!r} here, and a repository of the Hub is called org/name.")
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError

    from pixelllm_hf.downloads import DamagedDownloadError, verified_snapshot

    repo, file = "/".join(name.split("/")[:2]), "/".join(name.split("/")[2:])
    try:
        if file:
            return Path(hf_hub_download(repo, file))
        folder = verified_snapshot(repo, allow_patterns=[*_SETTINGS, "*.safetensors"])
        if not any(folder.glob("*.safetensors")):
            folder = verified_snapshot(repo, allow_patterns=[*_SETTINGS, *(f"*{suffix}" for suffix in PICKLES)])
        return folder
    except DamagedDownloadError:
        raise
    except (HfHubHTTPError, OSError) as error:
        told = " ".join(str(error).split())
        raise WeightSourceError(f"{name!r} is no path here, and does not come from the Hub: {told}") from error


def tensor_bytes(tensor: Tensor) -> Iterator[memoryview]:
    """The bytes of a tensor, as a file of safetensors holds them."""
    yield tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data


__all__ = ["DTYPES", "DTYPE_NAMES", "WeightSource", "WeightSourceError", "find_weights", "tensor_bytes"]
