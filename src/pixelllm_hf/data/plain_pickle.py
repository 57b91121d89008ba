"""Pickles of plain containers and scalars, read without pickle's power to import and call, and without its appetite.

The official refs files of RefCOCO are pickles. Python's unpickler is a small machine that does what a file says; of
its instructions only those that make containers and scalars are left here. It is the one that is written in Python,
which is slower than the one in C but keeps no table of a size that the file claims.
"""

from __future__ import annotations

import io
import pickle
import struct
from pathlib import Path
from typing import Any

from pixelllm_hf.data.annotation_text import read_bytes

_Machine: Any = pickle._Unpickler  # type: ignore[attr-defined]
_CALLED = {"set": set, "frozenset": frozenset}  # how protocols before 4 write them
_DAMAGED = (EOFError, LookupError, AttributeError, TypeError, ValueError, OverflowError, AssertionError, struct.error)
_WITHOUT_POWER = (
    *(pickle.PROTO, pickle.FRAME, pickle.STOP, pickle.MARK, pickle.POP, pickle.POP_MARK, pickle.DUP),
    *(pickle.GET, pickle.BINGET, pickle.LONG_BINGET, pickle.PUT, pickle.BINPUT, pickle.LONG_BINPUT, pickle.MEMOIZE),
    *(pickle.NONE, pickle.NEWTRUE, pickle.NEWFALSE, pickle.INT, pickle.BININT, pickle.BININT1, pickle.BININT2),
    *(pickle.LONG, pickle.LONG1, pickle.LONG4, pickle.FLOAT, pickle.BINFLOAT),
    *(pickle.STRING, pickle.BINSTRING, pickle.SHORT_BINSTRING, pickle.UNICODE, pickle.BINUNICODE),
    *(pickle.SHORT_BINUNICODE, pickle.BINUNICODE8, pickle.BINBYTES, pickle.SHORT_BINBYTES, pickle.BINBYTES8),
    *(pickle.TUPLE, pickle.EMPTY_TUPLE, pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3),
    *(pickle.LIST, pickle.EMPTY_LIST, pickle.APPEND, pickle.APPENDS),
    *(pickle.DICT, pickle.EMPTY_DICT, pickle.SETITEM, pickle.SETITEMS),
    *(pickle.EMPTY_SET, pickle.ADDITEMS, pickle.FROZENSET, pickle.GLOBAL, pickle.STACK_GLOBAL, pickle.REDUCE),
)


def load_plain_pickle(path: str | Path) -> Any:
    """Content of a pickle made of dicts, lists, tuples, sets, strings and numbers only.

    Anything else would run code of the file's choice while loading; it raises `pickle.UnpicklingError` and names the
    class. So does what is no whole pickle, and a dict or set whose keys are no strings or numbers of 64 bits: hashing
    others may take for ever. A file that is no pickle at all may be an `AnnotationFileError`, as of all readers.
    """
    content = io.BytesIO(read_bytes(path))
    try:
        return _PlainUnpickler(content, encoding="latin1").load()
    except pickle.UnpicklingError as error:
        raise pickle.UnpicklingError(f"{path}: {error}") from error
    except _DAMAGED as error:
        problem = f"{type(error).__name__}: {error}"
        raise pickle.UnpicklingError(f"{path} is not a whole pickle ({problem:.200}). Download it again.") from error


def _refused(unpickler: Any) -> None:
    raise pickle.UnpicklingError("refused an instruction that makes no plain container or scalar. Do not trust it.")


class _PlainUnpickler(_Machine):
    dispatch = dict.fromkeys(range(256), _refused) | {code[0]: _Machine.dispatch[code[0]] for code in _WITHOUT_POWER}

    def find_class(self, module: str, name: str) -> Any:
        if module in ("builtins", "__builtin__") and name in _CALLED:
            return _CALLED[name]
        raise pickle.UnpicklingError(
            f"refused to load {module!r:.80}.{name!r:.80}: a refs file holds builtin containers and scalars only. "
            "Do not trust this file; the official one has no classes."
        )

    def _call(self) -> None:
        """set or frozenset of a list."""
        arguments = self.stack.pop()
        kind = self.stack[-1]
        if not any(kind is called for called in _CALLED.values()) or not isinstance(arguments, tuple):
            _refused(self)
        (members,) = arguments
        if not isinstance(members, list):
            _refused(self)
        self.stack[-1] = kind(map(_key, members))

    def _dict(self) -> None:
        items = self.pop_mark()
        self.append({_key(items[index]): items[index + 1] for index in range(0, len(items), 2)})

    def _set_item(self) -> None:
        value = self.stack.pop()
        key = self.stack.pop()
        _mapping(self.stack[-1])[_key(key)] = value

    def _set_items(self) -> None:
        items = self.pop_mark()
        mapping = _mapping(self.stack[-1])
        for index in range(0, len(items), 2):
            mapping[_key(items[index])] = items[index + 1]

    def _add_items(self) -> None:
        items = self.pop_mark()
        if not isinstance(self.stack[-1], set):
            _refused(self)
        self.stack[-1].update(map(_key, items))

    def _frozen_set(self) -> None:
        items = self.pop_mark()
        self.append(frozenset(map(_key, items)))

    dispatch |= {
        pickle.REDUCE[0]: _call,
        pickle.DICT[0]: _dict,
        pickle.SETITEM[0]: _set_item,
        pickle.SETITEMS[0]: _set_items,
        pickle.ADDITEMS[0]: _add_items,
        pickle.FROZENSET[0]: _frozen_set,
    }


def _mapping(value: Any) -> dict[Any, Any]:
    if not isinstance(value, dict):
        _refused(value)
    return value


def _key(value: Any) -> Any:
    # Nested tuples hash for ever, and large integers can be chosen to have the same hash.
    if (
        value is None
        or isinstance(value, str | bytes | float)
        or isinstance(value, int)
        and -(1 << 63) <= value < 1 << 63
    ):
        return value
    raise pickle.UnpicklingError(f"refused a {type(value).__name__} as a key: strings and numbers of 64 bits are.")
