"""Writes small ONNX models by hand, for an independent runtime to run: no exporter of ours takes part.

Source: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto (the field numbers below).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

_FLOAT, _INT64 = 1, 7  # of TensorProto.DataType
_OPSET = 13


class OnnxGraph:
    """A graph that grows node by node; every method gives the name of what it added."""

    def __init__(self) -> None:
        self._nodes: list[bytes] = []
        self._tensors: list[bytes] = []

    def constant(self, values: Any) -> str:
        array = np.asarray(values)
        kind = _FLOAT if array.dtype.kind == "f" else _INT64
        name = f"constant_{len(self._tensors)}"
        raw = array.astype("<f4" if kind == _FLOAT else "<i8").tobytes()
        shape = b"".join(_number(1, size) for size in array.shape)
        self._tensors.append(shape + _number(2, kind) + _text(8, name) + _bytes(9, raw))
        return name

    def add(self, op_type: str, *inputs: str, **attributes: float | int | str | Sequence[int]) -> str:
        name = f"value_{len(self._nodes)}"
        node = b"".join(_text(1, source) for source in inputs) + _text(2, name) + _text(4, op_type)
        self._nodes.append(node + b"".join(_bytes(5, _attribute(*pair)) for pair in attributes.items()))
        return name

    def model(self, inputs: Mapping[str, Sequence[int]], outputs: Sequence[str]) -> bytes:
        """The whole model as the bytes of a file; inputs are float32 of the given shapes."""
        graph = b"".join(_bytes(1, node) for node in self._nodes) + _text(2, "graph")
        graph += b"".join(_bytes(5, tensor) for tensor in self._tensors)
        for name, sizes in inputs.items():
            shape = b"".join(_bytes(1, _number(1, size)) for size in sizes)
            graph += _bytes(11, _text(1, name) + _bytes(2, _bytes(1, _number(1, _FLOAT) + _bytes(2, shape))))
        graph += b"".join(_bytes(12, _text(1, name)) for name in outputs)
        return _number(1, 8) + _bytes(7, graph) + _bytes(8, _text(1, "") + _number(2, _OPSET))


def run_onnx(model: bytes, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """What onnxruntime, which has to be installed, computes."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return session.run(None, dict(inputs))


def _attribute(name: str, value: float | int | str | Sequence[int]) -> bytes:
    if isinstance(value, float):
        number, field = 1, _key(2, 5) + np.float32(value).tobytes()
    elif isinstance(value, int):
        number, field = 2, _number(3, value)
    elif isinstance(value, str):
        number, field = 3, _text(4, value)
    else:
        number, field = 7, b"".join(_number(8, item) for item in value)
    return _text(1, name) + field + _number(20, number)


def _key(field: int, kind: int) -> bytes:
    return _varint(field << 3 | kind)


def _number(field: int, value: int) -> bytes:
    return _key(field, 0) + _varint(value)


def _text(field: int, value: str) -> bytes:
    return _bytes(field, value.encode())


def _bytes(field: int, value: bytes) -> bytes:
    return _key(field, 2) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    value &= 2**64 - 1
    digits = []
    while value > 127:
        digits.append(value & 127 | 128)
        value >>= 7
    return bytes([*digits, value])


__all__ = ["OnnxGraph", "run_onnx"]
