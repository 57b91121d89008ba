"""Weight files without loading them: what is inside, whether they are whole, and the same tensors in smaller files.

The format is a length (8 bytes), a JSON header of that length with each tensor's place, and the tensors' bytes.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from huggingface_hub import split_state_dict_into_shards_factory

COPIED_AT_ONCE = 1 << 24
MAX_SHARD_BYTES = 5_000_000_000
# What weights of a model are stored as, by torch's names.
STORED_AS = ("float32", "bfloat16", "float16")


class WeightsError(ValueError):
    """A weight file is damaged."""


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor's bytes are: `start` to `stop` of `file`."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int

    @property
    def num_bytes(self) -> int:
        return self.stop - self.start

    @property
    def num_values(self) -> int:
        return math.prod(self.shape)


def read_layout(file: str | Path) -> dict[str, StoredTensor]:
    """The tensors of a file, by name; a file that is cut short, or longer than its header says, is a `WeightsError`."""
    file = Path(file)
    size = file.stat().st_size
    with open(file, "rb") as stream:
        length = struct.unpack("<Q", stream.read(8))[0] if size >= 8 else 0
        if not 2 <= length <= size - 8:
            raise WeightsError(f"{file} is not a whole safetensors file. Copy or save it again.")
        try:
            header = json.loads(stream.read(length))
            header.pop("__metadata__", None)
            tensors = {
                name: StoredTensor(
                    file, entry["dtype"], tuple(entry["shape"]), *(8 + length + at for at in entry["data_offsets"])
                )
                for name, entry in header.items()
            }
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise WeightsError(f"{file} has a damaged header ({error}). Copy or save it again.") from error
    end = max((tensor.stop for tensor in tensors.values()), default=8 + length)
    if end != size:
        raise WeightsError(f"{file} has {size} bytes where its header announces {end}. Copy or save it again.")
    return tensors


def sharded(files: Sequence[Path], into: Path, *, max_shard_bytes: int = MAX_SHARD_BYTES) -> list[Path] | None:
    """The same tensors in files of at most `max_shard_bytes` with an index, written to `into`; None if they fit as is.

    The bytes are copied, so nothing is rounded and no tensor has to fit in memory. Equal tensors give equal files.
    """
    layouts = [read_layout(file) for file in files]
    if all(sum(tensor.num_bytes for tensor in layout.values()) <= max_shard_bytes for layout in layouts):
        return None
    tensors = {name: tensor for layout in layouts for name, tensor in layout.items()}
    plan = split_state_dict_into_shards_factory(
        tensors,
        get_storage_size=lambda tensor: tensor.num_bytes,
        filename_pattern="model{suffix}.safetensors",
        max_shard_size=max_shard_bytes,
    )
    into.mkdir(parents=True, exist_ok=True)
    written = []
    for name, inside in plan.filename_to_tensors.items():
        write_tensors(into / name, {key: tensors[key] for key in inside}, lambda key: pieces(tensors[key]))
        written.append(into / name)
    index = into / "model.safetensors.index.json"
    write_index(index, plan.tensor_to_filename, tensors)
    return [*written, index]


class Described(Protocol):
    """What a header says of a tensor."""

    @property
    def dtype(self) -> str: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def num_bytes(self) -> int: ...
    @property
    def num_values(self) -> int: ...


def write_index(file: Path, weight_map: Mapping[str, str], tensors: Mapping[str, Described]) -> None:
    """The index beside shards: which file holds each tensor."""
    content = {
        "metadata": {
            "total_parameters": sum(tensor.num_values for tensor in tensors.values()),
            "total_size": sum(tensor.num_bytes for tensor in tensors.values()),
        },
        "weight_map": dict(weight_map),
    }
    file.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def write_tensors(
    target: Path, tensors: Mapping[str, Described], content: Callable[[str], Iterable[bytes | memoryview]]
) -> None:
    """A file of these tensors; `content` gives the bytes of one after the other, so that no two must be in memory."""
    # wide types first, so that every tensor starts at a multiple of its own width
    ordered = sorted(tensors.items(), key=lambda item: (-_width(item[1]), item[0]))
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, tensor in ordered:
        header[name] = {
            "dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": [at, at + tensor.num_bytes],
        }  # fmt: skip
        at += tensor.num_bytes
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    with open(target, "wb") as out:
        out.write(struct.pack("<Q", len(encoded)) + encoded)
        for name, tensor in ordered:
            written = sum(out.write(piece) for piece in content(name))
            assert written == tensor.num_bytes, f"{name}: {written} bytes where {tensor.num_bytes} were announced"


def pieces(tensor: StoredTensor) -> Iterator[bytes]:
    """The bytes of a stored tensor, a part at a time."""
    with open(tensor.file, "rb") as source:
        source.seek(tensor.start)
        left = tensor.num_bytes
        while left:
            piece = source.read(min(left, COPIED_AT_ONCE))
            if not piece:
                raise WeightsError(f"{tensor.file} became shorter while it was read.")
            yield piece
            left -= len(piece)


def _width(tensor: Described) -> int:
    return tensor.num_bytes // tensor.num_values if tensor.num_values else 0
