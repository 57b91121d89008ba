"""Reads weights out of ONNX files, whose format is a published protobuf schema, without the onnx package.

Source: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto (the field numbers below).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

_GRAPH = 7  # of ModelProto
_NODE, _INITIALIZER = 1, 5  # of GraphProto
_INPUT, _OUTPUT, _OP_TYPE = 1, 2, 4  # of NodeProto
_DIMS, _DATA_TYPE, _FLOAT_DATA, _NAME, _RAW_DATA = 1, 2, 4, 8, 9  # of TensorProto
_FLOAT = 1  # of TensorProto.DataType


class OnnxFileError(ValueError):
    """A file that is no ONNX model, or that keeps its weights in a way that is not read here."""


@dataclass(frozen=True)
class OnnxNode:
    """One operation: its kind and the names of what it reads and gives."""

    op_type: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class OnnxFile:
    """nodes in the order in which they run; tensors, the float32 initialisers by name."""

    nodes: list[OnnxNode]
    tensors: dict[str, np.ndarray]

    @classmethod
    def read(cls, path: str | Path) -> OnnxFile:
        content = Path(path).read_bytes()
        try:
            graphs = [value for number, value in fields(content) if number == _GRAPH and isinstance(value, bytes)]
            if len(graphs) != 1:
                raise OnnxFileError(f"it has {len(graphs)} graphs")
            nodes, tensors = [], {}
            for number, value in fields(graphs[0]):
                if number == _NODE:
                    nodes.append(_node(_message(value)))
                elif number == _INITIALIZER:
                    named = _tensor(_message(value))
                    if named is not None:
                        tensors[named[0]] = named[1]
        except (OnnxFileError, UnicodeDecodeError, ValueError) as error:
            raise OnnxFileError(f"{path} must be an ONNX model with its weights inside, but {error}.") from error
        return cls(nodes, tensors)


def fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """The fields of a protobuf message in order: number and value, bytes wherever they have a length."""
    position = 0
    while position < len(message):
        key, position = _varint(message, position)
        number, kind = key >> 3, key & 7
        if kind == 0:
            value, position = _varint(message, position)
            yield number, value
            continue
        if kind == 2:
            length, position = _varint(message, position)
        elif kind in (1, 5):
            length = 8 if kind == 1 else 4
        else:
            raise OnnxFileError(f"its bytes are no protobuf message (wire type {kind})")
        if position + length > len(message):
            raise OnnxFileError("it ends early")
        yield number, message[position : position + length]
        position += length


def _varint(message: bytes, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(message):
            raise OnnxFileError("it ends early")
        byte = message[position]
        position += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, position
    raise OnnxFileError("its bytes are no protobuf message (a number is too long)")


def _node(message: bytes) -> OnnxNode:
    texts: dict[int, list[str]] = {_INPUT: [], _OUTPUT: [], _OP_TYPE: []}
    for number, value in fields(message):
        if number in texts:
            texts[number].append(_message(value).decode())
    return OnnxNode("".join(texts[_OP_TYPE]), tuple(texts[_INPUT]), tuple(texts[_OUTPUT]))


def _tensor(message: bytes) -> tuple[str, np.ndarray] | None:
    """Name and values of a float32 tensor; None for tensors of another type, which are constants of shapes."""
    shape, name, data_type, raw = [], "", 0, b""
    for number, value in fields(message):
        if number == _DIMS and isinstance(value, int):
            shape.append(value)
        elif number == _DIMS:
            packed, position = _message(value), 0
            while position < len(packed):
                size, position = _varint(packed, position)
                shape.append(size)
        elif number == _DATA_TYPE and isinstance(value, int):
            data_type = value
        elif number == _NAME:
            name = _message(value).decode()
        elif number in (_RAW_DATA, _FLOAT_DATA):  # little endian both
            raw += _message(value)
    if data_type != _FLOAT:
        return None
    if len(raw) != 4 * int(np.prod(shape, dtype=np.int64)):
        raise OnnxFileError(
            f"the tensor {name!r} of shape {shape} has {len(raw)} bytes (are its weights in a file beside it?)"
        )
    return name, np.frombuffer(raw, "<f4").reshape(shape).copy()


def _message(value: int | bytes) -> bytes:
    if isinstance(value, int):
        raise OnnxFileError("its bytes are no ONNX model (a number where a message belongs)")
    return value


__all__ = ["OnnxFile", "OnnxFileError", "OnnxNode", "fields"]
