"""Runs a reader on many damaged inputs and counts how it answers.

An attempt reads one input and checks what came back. The right answers are two: a result that holds (`accepted`), and
an error of the package (`typed`). The wrong ones:

raw         an exception of Python or of another library
accepted wrongly  a result that `must` refused
hung        no answer within `seconds`
over memory more than `megabytes` beyond what the process had

Attempts run in child processes, so that one that hangs or eats memory is counted and the others go on. Everything is a
function of the seed: `inputs(random)` makes input number i from `random.Random(f"{seed}/{i}")`.
"""

from __future__ import annotations

import json
import os
import random
import resource
import select
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

_RIGHT = ("accepted", "typed")


class WronglyAcceptedError(Exception):
    """What was read is not what may come out of the reader."""


def must(condition: object, message: str) -> None:
    """In an attempt: what holds for every result."""
    if not condition:
        raise WronglyAcceptedError(message)


@dataclass
class Outcomes:
    """How many inputs were answered how, and the first ones of each wrong kind: number and message."""

    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def add(self, kind: str, index: int, message: str) -> None:
        self.counts[kind] += 1
        self.examples.setdefault(kind, []).append(f"input {index}: {message}")

    def check(self) -> None:
        """Fail on every wrong answer, and where the inputs were all good or all bad: then nothing was tried."""
        wrong = {kind: self.examples[kind][:5] for kind in self.counts if kind not in _RIGHT}
        table = ", ".join(f"{number} {kind}" for kind, number in sorted(self.counts.items()))
        assert not wrong, f"{table}\n" + "\n".join(f"{kind}: {line}" for kind in wrong for line in wrong[kind])
        assert self.counts["typed"], f"no input was refused ({table}); the inputs are not damaged"


def run(
    attempt: Callable[[Any], object],
    make: Callable[[random.Random], Any],
    number: int,
    *,
    typed: Sequence[type[BaseException]],
    seed: int = 0,
    seconds: float = 20.0,
    megabytes: int = 1024,
) -> Outcomes:
    """Try `attempt(make(random))` `number` times. typed: the errors that are right answers."""
    outcomes, index = Outcomes(), 0
    while index < number:
        index = _in_child(attempt, make, range(index, number), tuple(typed), seed, seconds, megabytes, outcomes)
    return outcomes


def _in_child(
    attempt: Callable[[Any], object],
    make: Callable[[random.Random], Any],
    indices: range,
    typed: tuple[type[BaseException], ...],
    seed: int,
    seconds: float,
    megabytes: int,
    outcomes: Outcomes,
) -> int:
    """Answers of one child, until it is through or did not survive; gives the number of the next input."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.close(reader)
            _answer(attempt, make, indices, typed, seed, megabytes, writer)
            code = 0
        except BaseException:  # of the harness or of `make`; an attempt's own are answers
            traceback.print_exc()
        finally:
            os._exit(code)  # no teardown of the test run's own
    os.close(writer)
    index, ended, rest = indices.start, "", b""
    try:
        while not ended and index < indices.stop:
            if not select.select([reader], [], [], seconds)[0]:
                ended = "hung"
            elif not (piece := os.read(reader, 1 << 16)):
                ended = "killed"
            else:
                *lines, rest = (rest + piece).split(b"\n")
                for line in lines:
                    kind, message = json.loads(line)
                    outcomes.add(kind, index, message)
                    index += 1
    finally:
        os.close(reader)
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
    if ended:
        outcomes.add(ended, index, f"after {seconds:g} s" if ended == "hung" else f"wait status {status}")
        index += 1
    return index


def _answer(
    attempt: Callable[[Any], object],
    make: Callable[[random.Random], Any],
    indices: range,
    typed: tuple[type[BaseException], ...],
    seed: int,
    megabytes: int,
    writer: int,
) -> None:
    for index in indices:
        value = make(random.Random(f"{seed}/{index}"))
        before, started = _peak_megabytes(), time.monotonic()
        _limit_memory(megabytes)
        message = ""
        try:
            attempt(value)
            kind = "accepted"
        except typed:
            kind = "typed"
        except WronglyAcceptedError as error:
            kind, message = "accepted wrongly", str(error)
        except MemoryError:
            kind = "over memory"
        except BaseException as error:
            kind, message = "raw", f"{type(error).__module__}.{type(error).__name__}: {_text(error)}"
        _limit_memory(None)
        taken = _peak_megabytes() - before
        if kind in _RIGHT and taken > megabytes:
            kind, message = "over memory", f"{taken} MB"
        message += f" ({time.monotonic() - started:.1f} s)"
        os.write(writer, json.dumps([kind, message[:300]]).encode() + b"\n")


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except BaseException as again:
        return f"(no message: {type(again).__name__})"


def _peak_megabytes() -> int:
    unit = 1 << 20 if sys.platform == "darwin" else 1 << 10  # bytes there, kilobytes elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // unit


def _limit_memory(megabytes: int | None) -> None:
    """Let the process grow by so much, several times over since what is asked for is not all used; None: no limit."""
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    limit = resource.RLIM_INFINITY if megabytes is None else _address_space() + 4 * (megabytes << 20)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))


def _address_space() -> int:
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 1 << 40  # not Linux: what is used is still counted


# ---------------------------------------------------------------- damage

# Written into JSON as they are, in place of a value: what Python's writer has no number or no depth for.
_TOKENS = {
    "@deep list@": b"[" * 3000 + b"]" * 3000,
    "@deeper list@": b"[" * 100_000 + b"]" * 100_000,
    "@deep object@": b'{"a":' * 300 + b"1" + b"}" * 300,
    "@400 digits@": b"1" + b"0" * 400,
    "@5000 digits@": b"1" + b"0" * 5000,
    "@1e999@": b"1e999",
    "@half a surrogate pair@": b'"\\ud800"',
    "@byte ff@": b'"a \xff car"',
    "@latin-1@": '"caf\xe9"'.encode("latin-1"),
}

HOSTILE: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 0.5, -0.0, 1e30, -1e308, 2**31, -(2**31) - 1, 2**63, 2**64, 10**18, 100_000),
    *(float("nan"), float("inf"), float("-inf")),
    *("", " ", "None", "null", "1", "nan", "\0", "a\0b", "../../etc/passwd", "/etc/passwd", "~nobody", "x" * 5000),
    *("\u202e", "\U0001f600", "file:///etc/passwd", "http://localhost/1.jpg", "é" * 300),
    *([], {}, [[]], [None], [{}], {"a": 1}, [0], [1, 2], [1] * 4, ["1"] * 4, [float("nan")] * 4, [[1, 2], [3]]),
    *([[0.0] * 6], [["a"] * 6], [[1e9] * 6], [0] * 10_000, {"size": [1, 1], "counts": [1]}),
    *({"size": [100_000, 100_000], "counts": [10**10]}, {"size": ["4", "4"], "counts": "abc"}, {"size": None}),
    *_TOKENS,
)


def damaged(content: Any, chance: random.Random) -> Any:
    """A copy of JSON-like content with one to three of its values replaced, removed, repeated or swapped."""
    content = json.loads(json.dumps(content))
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        content = _damage(content, chance)
    return content


def _damage(content: Any, chance: random.Random) -> Any:
    """Goes down a random path and changes what is at its end."""
    keys = list(content) if isinstance(content, dict) else range(len(content)) if isinstance(content, list) else []
    if not keys or chance.random() < 0.1:
        return deepcopy(chance.choice(HOSTILE))
    key = chance.choice(list(keys))
    what = chance.random()
    if what < 0.7:
        content[key] = _damage(content[key], chance)
    elif what < 0.8:
        del content[key]
    elif what < 0.9 and isinstance(content, list):
        content.insert(key, deepcopy(chance.choice((content[key], chance.choice(HOSTILE)))))
    elif what < 0.9:
        content[chance.choice(("extra", "id", "", "\0"))] = deepcopy(chance.choice(HOSTILE))
    else:
        other = chance.choice(list(keys))
        content[key], content[other] = content[other], content[key]
    return content


def as_json(content: Any) -> bytes:
    """The content written as JSON, with the hostile tokens in their places."""
    text = json.dumps(content, ensure_ascii=False).encode()
    for token, raw in _TOKENS.items():
        text = text.replace(json.dumps(token).encode(), raw)
    return text


def damaged_bytes(content: bytes, chance: random.Random) -> bytes:
    """Cut, flipped, overwritten, with something put in, doubled, or marked and encoded as other programs do."""
    how = chance.randrange(8)
    at = chance.randrange(len(content) + 1)
    if how == 0:
        return content[:at]
    if how == 1:
        flipped = bytearray(content)
        for _ in range(chance.choice((1, 2, 20))):
            if flipped:
                flipped[chance.randrange(len(flipped))] ^= 1 << chance.randrange(8)
        return bytes(flipped)
    if how == 2:
        return content[:at] + bytes(chance.choice((1, 40, 300))) + content[at + 40 :]
    if how == 3:
        return (
            content[:at] + chance.choice((b"\xff", b"\xff\xfe", b"\0", b"\r\n", b"[" * 500, b'"', b"}")) + content[at:]
        )
    if how == 4:
        return content + content
    if how == 5:
        return chance.choice((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff", b"\x1f\x8b", b"PK\x03\x04")) + content
    if how == 6:
        return content.decode("utf-8", "replace").encode(chance.choice(("utf-16", "utf-16-le", "utf-32")))
    return content[at:]
