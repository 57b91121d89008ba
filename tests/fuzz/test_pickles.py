"""Pickles of any bytes and any instructions: plain containers, or `UnpicklingError`; no code runs."""

from __future__ import annotations

import pickle
import pickletools
import random

from pixelllm_hf.data import AnnotationFileError, load_plain_pickle

SENTENCE = {"sent": "a car", "tokens": ["a", "car"]}
REFS = [
    {"ref_id": 1, "ann_id": 2, "image_id": 3, "split": "train", "sentences": [SENTENCE]},
    {"box": (1, 2.5, True, None), "names": {"a", "b"}, "frozen": frozenset({1}), "large": 10**30, "bytes": b"\xff"},
]
PLAIN = (dict, list, tuple, set, frozenset, str, bytes, int, float, bool, type(None))


def test_damaged_pickles_are_refused_or_plain(fuzz, fuzz_inputs, tmp_path):
    path, mark = tmp_path / "refs.p", tmp_path / "ran"
    codes = [opcode.code.encode("latin1") for opcode in pickletools.opcodes]
    callers = [f"cbuiltins\n{name}\n".encode() for name in ("eval", "exec", "bytearray", "complex", "set", "getattr")]
    callers += [b"cos\nsystem\n(S'touch " + str(mark).encode() + b"'\ntR", b"cdecimal\nDecimal\n(S'9'\ntR"]

    def make(chance: random.Random) -> bytes:
        content = pickle.dumps(chance.choice(REFS), protocol=chance.randrange(6))
        kind = chance.random()
        if kind < 0.3:
            return fuzz.damaged_bytes(content, chance)
        at = chance.randrange(2, len(content))
        if kind < 0.6:  # one instruction more, with whatever follows as its argument
            return content[:at] + chance.choice((*codes, *callers)) + content[at:]
        if kind < 0.7:  # a size or an index that the file claims
            return (
                content[:at] + chance.choice(codes) + b"\xff\xff\xff" + chance.choice((b"\x7f", b"\xff")) + content[at:]
            )
        count = chance.choice((5, 30, 200))
        return b"\x80\x04" + b"".join(chance.choice(_BUILDING) for _ in range(count)) + b"."

    def attempt(content: bytes) -> None:
        path.write_bytes(content)
        result, seen = [load_plain_pickle(path)], set()
        while result:
            value = result.pop()
            fuzz.must(type(value) in PLAIN, f"a {type(value).__name__} came out")
            if isinstance(value, dict | list | tuple | set | frozenset) and id(value) not in seen:
                seen.add(id(value))
                result += [*value, *value.values()] if isinstance(value, dict) else list(value)
        fuzz.must(not mark.exists(), "code ran")

    fuzz.run(attempt, make, fuzz_inputs, typed=[pickle.UnpicklingError, AnnotationFileError], megabytes=256).check()
    assert not mark.exists()


# Containers of each other and of themselves, in one byte each, and a few to put into them.
_BUILDING = (
    *(bytes([code]) for code in b"]}\x8f)(\x942aesu\x90\x91t\x85\x86\x87ld01N"),
    *(b"K\x01", b"h\x00", b"h\x01", b"q\x00", b"\x8c\x01a", b"r\xff\xff\xff\x7f"),
)
