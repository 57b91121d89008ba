"""A training recipe: dataclasses filled from one YAML file and `key=value` words, every unknown key an error."""

from __future__ import annotations

import dataclasses
import difflib
import re
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml

from pixelllm_hf.training.recipe_values import (
    ConfigError,
    Count,
    CountOrNone,
    Few,
    NotNegative,
    Positive,
    RecipePart,
    RecipeT,
    Within,
    from_dict,
    joined,
)

MAX_RECIPE_BYTES = 1_000_000
MAX_RECIPE_VALUES = 100_000
Beta = Annotated[float, Within(0, 0.9999999)]
_VARIABLE = re.compile(r"\$\{([^{}]*)\}")


@dataclass
class OptimizerConfig(RecipePart):
    """AdamW as in the reference (official.md#recipes) unless said otherwise: no decay on 1-D parameters, no clipping.

    Args:
        layer_decay: factor per block of one vision tower, counted from the last; 1 means one learning rate for all.
        layer_decay_tower: that tower's name.
        lr_multipliers: part of a parameter's name -> factor on its learning rate, e.g. `{mask_head.adapter: 10}`.
        muon: leave the weights of linear layers to Muon and only the rest to AdamW; the reference has AdamW alone.
        muon_parts: dotted names of the parts whose linear layers these are; None is the whole model.
        muon_scale: factor on the learning rate of what Muon moves.
        max_grad_norm: clips the global gradient norm; None is the reference.
        ema_decay: keep an exponential mean of the weights and evaluate and export that one; None is off.
    """

    learning_rate: NotNegative = 5e-5
    weight_decay: NotNegative = 0.0
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    eps: Positive = 1e-8
    layer_decay: Annotated[float, Within(1e-6, 1)] = 1.0
    layer_decay_tower: str = "eva02"
    lr_multipliers: dict[str, NotNegative] = field(default_factory=dict)
    muon: bool = False
    muon_parts: list[str] | None = None
    muon_scale: Positive = 1.0
    max_grad_norm: Positive | None = None
    ema_decay: Annotated[float, Within(0, 1, open_ends=True)] | None = None


@dataclass
class RunConfig(RecipePart):
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
        shard: share parameters, gradients and moments out over the processes (FSDP2), instead of a copy in each.
        gradient_checkpointing: layers keep only what they read and compute the rest again on the way back, which takes
            about a third more time and a fraction of the memory for activations.
    """

    output_dir: str = "runs/unnamed"
    seed: Annotated[int, Within(0, 2**32 - 1)] = 0
    total_steps: Count = 1000
    warmup_steps: CountOrNone = 0
    gradient_accumulation: Count = 1
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    cpu: bool = False
    num_threads: Few | None = None
    workers: Annotated[int, Within(0, 1024)] = 0
    prefetch: Few = 4
    log_every: Count = 20
    eval_every: CountOrNone = 0
    eval_batches: Count = 8
    save_every: Count = 500
    keep_last: Count = 2
    resume: str = "auto"
    stop_at: Count | None = None
    max_minutes: NotNegative | None = None
    trackers: list[str] = field(default_factory=list)
    progress: bool = True
    find_unused_parameters: bool = True
    shard: bool = False
    gradient_checkpointing: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.warmup_steps > self.total_steps:
            raise ConfigError(
                f"warmup_steps must lie within 0..total_steps ({self.total_steps}), but is {self.warmup_steps}."
            )
        if not self.output_dir:
            raise ConfigError("output_dir is empty. Name the folder that receives the run.")


def load_config(
    cls: type[RecipeT],
    path: str | Path | None,
    overrides: Sequence[str] = (),
    variables: Mapping[str, str] | None = None,
) -> RecipeT:
    """The recipe in `path`, with `key=value` overrides laid over it.

    A recipe may begin from another: `extends: other.yaml`, beside it, is read first; mappings are merged key by key,
    lists and values are replaced.
    `variables: {data: null, runs: runs}` in a recipe names what may differ from machine to machine, with its default or
    null where there is none; `${data}` in any text of the recipe stands for it. variables: values for these names.
    A key is dotted (`optimizer.learning_rate=1e-3`), or the last part alone where only one field has that name
    (`resume=auto`). Values are YAML, so `[a, b]` and `null` work.
    """
    values: dict[str, Any] = {} if path is None else _recipe(Path(path))
    for word in overrides:
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise ConfigError(f"An override must read key=value, but one is {word!r}; write e.g. run.total_steps=100.")
        _put(values, _resolve_key(cls, key), _parsed(value, f"The value of the override {word[:200]!r}"))
    return from_dict(cls, _filled(values, _variables(values.pop("variables", None), variables or {})))


def _variables(declared: Any, given: Mapping[str, str]) -> dict[str, str | None]:
    """The recipe's variables with the values given for them."""
    declared = {} if declared is None else declared
    texts = isinstance(declared, dict) and all(value is None or isinstance(value, str) for value in declared.values())
    if not texts:
        raise ConfigError(f"variables of a recipe must be names with texts or null, but are {str(declared)[:200]!r}.")
    if unknown := [name for name in given if name not in declared]:
        known = f"its variables are {', '.join(map(str, declared))}" if declared else "it has no variables"
        raise ConfigError(f"The recipe has no variable {unknown[0]!r}: {known}.")
    return {str(name): value for name, value in declared.items()} | dict(given)


def _filled(value: Any, variables: Mapping[str, str | None]) -> Any:
    """A value of a recipe, with its variables filled in."""
    if isinstance(value, dict):
        return {key: _filled(item, variables) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_filled(item, variables) for item in value]
    if not isinstance(value, str):
        return value

    def meant(match: re.Match[str]) -> str:
        name = match.group(1)
        if name not in variables:
            raise ConfigError(
                f"{value[:200]!r} names {match.group()}, but the recipe's variables are "
                f"{', '.join(variables) or 'none'}. Add it to `variables`."
            )
        if (filled := variables[name]) is None:
            raise ConfigError(f"{value[:200]!r} needs {name!r}: say --set {name}=VALUE.")
        return filled

    return _VARIABLE.sub(meant, value)


def _recipe(path: Path, below: tuple[Path, ...] = ()) -> dict[str, Any]:
    values = _mapping(_read(path), f"The recipe {str(path)!r}")
    base = values.pop("extends", None)
    if base is None:
        return values
    if not isinstance(base, str) or "\0" in base or not base:
        raise ConfigError(
            f"extends of the recipe {str(path)!r} must name a recipe beside it, but is {str(base)[:100]!r}."
        )
    below = (*below, path.resolve())
    file = path.parent / base
    if file.resolve() in below or len(below) > 8:
        raise ConfigError(f"The recipe {str(path)!r} extends {base!r}, which comes back to itself or goes on too long.")
    return _merged(_recipe(file, below), values)


def _merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(base.get(key), dict)
        merged[key] = _merged(base[key], value) if both else value
    return merged


def _read(path: str | Path) -> str:
    try:
        if not Path(path).is_file():
            raise OSError("it is no file")
        with open(path, encoding="utf-8") as file:
            text = file.read(MAX_RECIPE_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: not UTF-8, or a NUL in the path
        raise ConfigError(f"The recipe {str(path)!r} cannot be read ({error}); give a YAML file in UTF-8.") from error
    if len(text) > MAX_RECIPE_BYTES:
        raise ConfigError(f"The recipe {str(path)!r} is longer than {MAX_RECIPE_BYTES} bytes; give a YAML file.")
    return text


def _mapping(text: str, what: str) -> dict[str, Any]:
    values = _parsed(text, what)
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"{what} must be a mapping of keys to values, but is a {type(values).__name__}.")
    return values


def _parsed(text: str, what: str) -> Any:
    """The YAML value of a text, of a bounded size also where aliases make much of little."""
    try:
        value = yaml.safe_load(text)
    except Exception as error:  # the parser meets odd input with half a dozen types besides its own
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error) or type(error).__name__
        raise ConfigError(f"{what} is not valid YAML: {reason[:500]}") from error
    waiting, count = [value], 0
    while waiting:
        item = waiting.pop()
        count += 1
        if isinstance(item, (dict, list, tuple, set)):
            waiting += [*item, *item.values()] if isinstance(item, dict) else item
        if count + len(waiting) > MAX_RECIPE_VALUES:
            raise ConfigError(f"{what} holds more than {MAX_RECIPE_VALUES} values. Do aliases refer to each other?")
    return value


def to_dict(recipe: Any) -> dict[str, Any]:
    """The recipe as plain JSON values."""
    return dataclasses.asdict(recipe)


def _put(values: dict[str, Any], dotted: str, value: Any) -> None:
    *parents, last = dotted.split(".")
    for depth, parent in enumerate(parents, 1):
        if values.get(parent) is None:
            values[parent] = {}
        values = values[parent]
        if not isinstance(values, dict):
            raise ConfigError(
                f"The override {dotted!r} goes below {'.'.join(parents[:depth])!r}, which is no mapping but a "
                f"{type(values).__name__}. Override it as a whole."
            )
    values[last] = value


def _field_paths(cls: type, where: str = "") -> list[str]:
    hints = typing.get_type_hints(cls)
    paths = []
    for f in dataclasses.fields(cls):
        paths.append(joined(where, f.name))
        for member in (hints[f.name], *typing.get_args(hints[f.name])):
            if dataclasses.is_dataclass(member) and typing.get_origin(hints[f.name]) is not list:
                paths += _field_paths(typing.cast(type, member), joined(where, f.name))
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
