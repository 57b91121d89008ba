"""A training recipe: dataclasses filled from one YAML file and `key=value` words, every unknown key an error."""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml

RecipeT = TypeVar("RecipeT")


class ConfigError(ValueError):
    """A recipe has an unknown key, a value of the wrong type, or a combination that cannot work."""


@dataclass
class OptimizerConfig:
    """AdamW as in the reference (spec section 12) unless said otherwise: no decay on 1-D parameters, no clipping.

    Args:
        layer_decay: factor per EVA02 block, counted from the last; 1 means one learning rate for all.
        lr_multipliers: part of a parameter's name -> factor on its learning rate, e.g. `{mask_adapter: 10}`.
        muon: leave the weights of linear layers to Muon and only the rest to AdamW; the reference has AdamW alone.
        max_grad_norm: clips the global gradient norm; None is the reference.
        ema_decay: keep an exponential mean of the weights and evaluate and export that one; None is off.
    """

    learning_rate: float = 5e-5
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    layer_decay: float = 1.0
    lr_multipliers: dict[str, float] = field(default_factory=dict)
    muon: bool = False
    max_grad_norm: float | None = None
    ema_decay: float | None = None


@dataclass
class RunConfig:
    """How long, how often and where; the same for every kind of training.

    Args:
        output_dir: receives checkpoints/, model/, metrics.jsonl, metrics.json and args.json.
        total_steps, warmup_steps: optimizer steps of the schedule; the run ends at `total_steps`.
        gradient_accumulation: batches per optimizer step.
        mixed_precision: `no`, `bf16` or `fp16` (the last on accelerators only).
        num_threads: torch's threads per process; None leaves torch's own choice.
        workers, prefetch: loader processes, and batches each keeps ready.
        resume: `auto` continues from the newest checkpoint in `output_dir`, `never` refuses to overwrite one,
            anything else is the checkpoint folder to continue from, perhaps with another number of steps.
        stop_at: the step to stop at, with a checkpoint, where only the first part of a schedule is wanted.
        max_minutes: stop cleanly, with a checkpoint, after this long; the schedule is unaffected.
        trackers: names that accelerate knows, e.g. `[tensorboard]`.
        find_unused_parameters: for several processes; batches that leave a head idle need it.
    """

    output_dir: str = "runs/unnamed"
    seed: int = 0
    total_steps: int = 1000
    warmup_steps: int = 0
    gradient_accumulation: int = 1
    mixed_precision: str = "no"
    cpu: bool = False
    num_threads: int | None = None
    workers: int = 0
    prefetch: int = 4
    log_every: int = 20
    eval_every: int = 0
    eval_batches: int = 8
    save_every: int = 500
    keep_last: int = 2
    resume: str = "auto"
    stop_at: int | None = None
    max_minutes: float | None = None
    trackers: list[str] = field(default_factory=list)
    progress: bool = True
    find_unused_parameters: bool = True

    def __post_init__(self) -> None:
        if self.mixed_precision not in ("no", "bf16", "fp16"):
            raise ConfigError(f"mixed_precision must be no, bf16 or fp16, but is {self.mixed_precision!r}.")
        for name in ("total_steps", "gradient_accumulation", "log_every", "keep_last", "prefetch"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, but is {getattr(self, name)}.")
        if not 0 <= self.warmup_steps <= self.total_steps:
            raise ConfigError(
                f"warmup_steps must lie within 0..total_steps ({self.total_steps}), but is {self.warmup_steps}."
            )


def load_config(cls: type[RecipeT], path: str | Path | None, overrides: Sequence[str] = ()) -> RecipeT:
    """The recipe in `path`, with `key=value` overrides laid over it.

    A key is dotted (`optimizer.learning_rate=1e-3`), or the last part alone where only one field has that name
    (`resume=auto`). Values are YAML, so `[a, b]` and `null` work.
    """
    values: dict[str, Any] = {}
    if path is not None:
        try:
            text = Path(path).read_text(encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"The recipe {str(path)!r} cannot be read ({error}); give a YAML file.") from error
        try:
            values = yaml.safe_load(text) or {}
        except yaml.YAMLError as error:
            raise ConfigError(f"The recipe {str(path)!r} is not valid YAML: {error}") from error
    for word in overrides:
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise ConfigError(f"An override must read key=value, but one is {word!r}; write e.g. run.total_steps=100.")
        try:
            parsed = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ConfigError(f"The value of the override {word!r} is not valid YAML: {error}") from error
        _put(values, _resolve_key(cls, key), parsed)
    return from_dict(cls, values)


def from_dict(cls: type[RecipeT], values: Any, where: str = "") -> RecipeT:
    """A dataclass from plain values, nested ones included; unknown keys and wrong types raise `ConfigError`."""
    if not isinstance(values, dict):
        raise ConfigError(f"{where or 'A recipe'} must be a mapping of keys to values, but is {values!r}.")
    hints = typing.get_type_hints(cls)
    known = [f.name for f in dataclasses.fields(cls)]  # type: ignore[arg-type]
    for key in values:
        if key not in known:
            guess = difflib.get_close_matches(str(key), known, n=1)
            hint = f"Did you mean {guess[0]!r}?" if guess else f"Known keys: {', '.join(known)}."
            raise ConfigError(f"Unknown key {_join(where, key)!r} in the recipe. {hint}")
    arguments = {key: _coerce(value, hints[key], _join(where, key)) for key, value in values.items()}
    try:
        return cls(**arguments)
    except TypeError as error:  # a required field is missing
        raise ConfigError(f"{where or 'The recipe'} is incomplete: {error}") from error


def to_dict(recipe: Any) -> dict[str, Any]:
    """The recipe as plain JSON values."""
    return dataclasses.asdict(recipe)


def _join(where: str, key: Any) -> str:
    return f"{where}.{key}" if where else str(key)


def _put(values: dict[str, Any], dotted: str, value: Any) -> None:
    *parents, last = dotted.split(".")
    for parent in parents:
        values = values.setdefault(parent, {})
    values[last] = value


def _field_paths(cls: type, where: str = "") -> list[str]:
    hints = typing.get_type_hints(cls)
    paths = []
    for f in dataclasses.fields(cls):
        paths.append(_join(where, f.name))
        for member in (hints[f.name], *typing.get_args(hints[f.name])):
            if dataclasses.is_dataclass(member) and typing.get_origin(hints[f.name]) is not list:
                paths += _field_paths(typing.cast(type, member), _join(where, f.name))
    return paths


def _resolve_key(cls: type, key: str) -> str:
    paths = _field_paths(cls)
    if key in paths:
        return key
    parents = {path for path in paths if key.startswith(f"{path}.")}
    if parents:  # below a free-form mapping; `from_dict` judges it
        return key
    matches = [path for path in paths if path.rsplit(".", 1)[-1] == key]
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise ConfigError(f"The override key {key!r} is ambiguous: it may be {' or '.join(matches)}.")
    guess = difflib.get_close_matches(key, paths + [path.rsplit(".", 1)[-1] for path in paths], n=1)
    hint = f"Did you mean {guess[0]!r}?" if guess else f"Known keys: {', '.join(paths)}."
    raise ConfigError(f"Unknown key {key!r} in the overrides. {hint}")


def _coerce(value: Any, hint: Any, where: str) -> Any:
    origin, members = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in members:
            return None
        errors = []
        for member in members:
            if member is not type(None):
                try:
                    return _coerce(value, member, where)
                except ConfigError as error:
                    errors.append(error)
        raise errors[0]
    if dataclasses.is_dataclass(hint):
        return value if isinstance(value, typing.cast(type, hint)) else from_dict(typing.cast(type, hint), value, where)
    if origin in (list, tuple) and isinstance(value, (list, tuple)):
        if origin is list:
            return [_coerce(item, members[0], f"{where}[{i}]") for i, item in enumerate(value)]
        if len(members) == len(value):
            pairs = enumerate(zip(value, members, strict=True))
            return tuple(_coerce(item, member, f"{where}[{i}]") for i, (item, member) in pairs)
    if origin is dict and isinstance(value, dict):
        return {str(key): _coerce(item, members[1], _join(where, key)) for key, item in value.items()}
    if hint is float and isinstance(value, (int, float, str)) and not isinstance(value, bool):
        try:
            return float(value)  # YAML reads 1e-3 as a string
        except ValueError:
            pass
    if hint is str and isinstance(value, (str, Path)):
        return str(value)
    if hint is bool and isinstance(value, bool):
        return value
    if hint is int and isinstance(value, int) and not isinstance(value, bool):
        return value
    name = getattr(hint, "__name__", str(hint)) if origin is None else str(hint)
    raise ConfigError(f"{where} must be of type {name}, but is {value!r} ({type(value).__name__}).")
