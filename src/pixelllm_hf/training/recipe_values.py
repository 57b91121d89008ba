"""What the fields of a recipe may hold: dataclasses filled from plain values, each checked for type and range."""

from __future__ import annotations

import dataclasses
import difflib
import math
import types
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

RecipeT = TypeVar("RecipeT")


class ConfigError(ValueError):
    """A recipe has an unknown key, a value of the wrong type or size, or a combination that cannot work."""


@dataclass(frozen=True)
class Within:
    """The numbers that a field may hold; both ends belong to them, unless `open_ends` says that neither does."""

    low: float
    high: float = math.inf
    open_ends: bool = False

    def __contains__(self, value: float) -> bool:
        return self.low < value < self.high if self.open_ends else self.low <= value <= self.high

    def broken_by(self, value: float) -> str:
        """What a value outside would have to be."""
        below = value <= self.low
        words = ("less than", "greater than") if self.open_ends else ("at most", "at least")
        return f"{words[below]} {self.low if below else self.high:g}"


# The upper ends of counts are far above anything that trains: they catch slips before these ask for memory.
Count = Annotated[int, Within(1, 10**9)]
CountOrNone = Annotated[int, Within(0, 10**9)]
NotNegative = Annotated[float, Within(0)]
Positive = Annotated[float, Within(0, open_ends=True)]
Share = Annotated[float, Within(0, 1)]
Few = Annotated[int, Within(1, 4096)]


class RecipePart:
    """Base of a recipe's dataclasses: a value of the wrong type or out of range raises `ConfigError`, however made."""

    def __post_init__(self) -> None:
        hints = typing.get_type_hints(type(self), include_extras=True)
        for f in dataclasses.fields(self):  # type: ignore[arg-type]
            setattr(self, f.name, coerce(getattr(self, f.name), hints[f.name], f.name))


def from_dict(cls: type[RecipeT], values: Any, where: str = "") -> RecipeT:
    """A dataclass from plain values, nested ones included; unknown keys and wrong values raise `ConfigError`."""
    if not isinstance(values, dict):
        raise ConfigError(f"{where or 'A recipe'} must be a mapping of keys to values, but is {_shown(values)}.")
    hints = typing.get_type_hints(cls, include_extras=True)
    known = [f.name for f in dataclasses.fields(cls)]  # type: ignore[arg-type]
    for key in values:
        if key not in known:
            guess = difflib.get_close_matches(str(key)[:100], known, n=1)
            hint = f"Did you mean {guess[0]!r}?" if guess else f"Known keys: {', '.join(known)}."
            raise ConfigError(f"Unknown key {_shown(joined(where, key))} in the recipe. {hint}")
    arguments = {key: coerce(value, hints[key], joined(where, key)) for key, value in values.items()}
    try:
        return cls(**arguments)
    except TypeError as error:  # a required field is missing
        raise ConfigError(f"{where or 'The recipe'} is incomplete: {error}") from error


def coerce(value: Any, hint: Any, where: str) -> Any:
    """`value` as the type that a field is annotated with; where: the field's dotted name, for the message."""
    origin, members = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin is Annotated:
        value = coerce(value, members[0], where)
        if value not in members[1]:
            raise ConfigError(f"{where} must be {members[1].broken_by(value)}, but is {_shown(value)}.")
        return value
    if origin is typing.Literal:
        if value not in members or isinstance(value, bool):
            *others, last = map(str, members)
            raise ConfigError(f"{where} must be {', '.join(others)} or {last}, but is {_shown(value)}.")
        return value
    if origin in (typing.Union, types.UnionType):
        return _any_of(value, members, where)
    if dataclasses.is_dataclass(hint):
        return value if isinstance(value, typing.cast(type, hint)) else from_dict(typing.cast(type, hint), value, where)
    if origin in (list, tuple) and isinstance(value, (list, tuple)):
        if origin is list:
            return [coerce(item, members[0], f"{where}[{i}]") for i, item in enumerate(value)]
        if len(members) == len(value):
            pairs = enumerate(zip(value, members, strict=True))
            return tuple(coerce(item, member, f"{where}[{i}]") for i, (item, member) in pairs)
    if origin is dict and isinstance(value, dict):
        return {str(key): coerce(item, members[1], joined(where, key)) for key, item in value.items()}
    if hint is float and isinstance(value, (int, float, str)) and not isinstance(value, bool):
        try:
            number = float(value)  # YAML reads 1e-3 as a string
        except (ValueError, OverflowError):
            number = math.nan
        if math.isfinite(number):
            return number
        raise ConfigError(f"{where} must be a finite number, but is {_shown(value)}.")
    if hint is str and isinstance(value, (str, Path)):
        if "\0" in str(value):
            raise ConfigError(f"{where} holds a NUL character: {_shown(value)}.")
        return str(value)
    if hint is bool and isinstance(value, bool):
        return value
    if hint is int and isinstance(value, int) and not isinstance(value, bool):
        return value
    name = getattr(hint, "__name__", str(hint)) if origin is None else str(hint)
    raise ConfigError(f"{where} must be of type {name}, but is {_shown(value)} ({type(value).__name__}).")


def _any_of(value: Any, members: tuple[Any, ...], where: str) -> Any:
    if value is None and type(None) in members:
        return None
    errors = []
    for member in members:
        if member is not type(None):
            try:
                return coerce(value, member, where)
            except ConfigError as error:
                errors.append(error)
    raise errors[0]


def joined(where: str, key: Any) -> str:
    return f"{where}.{key}" if where else str(key)


def _shown(value: Any) -> str:
    """A value in a message, however long it is."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # a number of more digits than Python writes; too deep
        text = f"a {type(value).__name__} that is too large to show"
    return text if len(text) <= 120 else text[:120] + " …"
