"""The command line that all training scripts share: a recipe file, overrides, and errors that a user can mend."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

from safetensors import SafetensorError

from pixelllm_hf.folders import FolderInUseError
from pixelllm_hf.training.batch_stream import BatchError, LoaderError
from pixelllm_hf.training.checkpointing import CheckpointError
from pixelllm_hf.training.config import ConfigError, RecipeT, load_config
from pixelllm_hf.training.trainer import LostProcessError, NonFiniteLossError

# What a user can mend. OSError and SafetensorError: a full disk, a folder that may not be written, a vanished file.
MENDABLE = (
    BatchError,
    ConfigError,
    CheckpointError,
    FolderInUseError,
    LoaderError,
    LostProcessError,
    NonFiniteLossError,
    OSError,
    SafetensorError,
)


def recipe_parser(about: str | None, *, required: bool = False) -> argparse.ArgumentParser:
    """A command line that names a recipe and says what is laid over it; see `load_recipe`."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=required, help="recipe, a YAML file")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="e.g. run.total_steps=100 or resume=never")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="a variable of the recipe, e.g. data=DIR"
    )
    return parser


def load_recipe(recipe: type[RecipeT], arguments: argparse.Namespace) -> RecipeT:
    """The recipe that the arguments of a `recipe_parser` name."""
    if bare := [word for word in arguments.set if not word.partition("=")[0] or "=" not in word]:
        raise ConfigError(f"--set takes NAME=VALUE, but got {bare[0]!r}.")
    variables = dict(word.split("=", 1) for word in arguments.set)
    return load_config(recipe, arguments.config, arguments.overrides, variables)


def run_recipe(
    main: Callable[[RecipeT], None],
    recipe: type[RecipeT],
    about: str | None,
    describe: Callable[[RecipeT], str],
) -> None:
    """Read the recipe that `--config` names, with what the command line lays over it, and call `main` with it.

    With `--dry_run` print what `describe` says of it instead.
    Errors of the recipe, of files and folders or of the loss end the program with one line and exit status 1.
    """
    parser = recipe_parser(about, required=True)
    parser.add_argument(
        "--dry_run",
        action="store_true",
        help="only say what would train: parameters, schedule, batches, epochs, memory",
    )
    arguments = parser.parse_intermixed_args()
    try:
        values = load_recipe(recipe, arguments)
        if arguments.dry_run:
            print(describe(values))
        else:
            main(values)
    except MENDABLE as error:
        sys.exit(f"{type(error).__name__}: {' '.join(str(error).split())}")
