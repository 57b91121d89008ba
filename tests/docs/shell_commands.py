"""The commands of bash blocks: run where that is quick, else held against the parser that would read them."""

from __future__ import annotations

import argparse
import ast
import importlib.util
import io
import os
import re
import runpy
import shlex
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

from pixelllm_hf.inference import EMBEDDED, default_model
from pixelllm_hf.processing.tasks import TASK_SPECS

REPOSITORY = Path(__file__).parents[2]
_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=")


class CommandError(AssertionError):
    """A command of the documentation that does not work as it stands."""


class Parsed(BaseException):
    """Raised in the place of a program's work; not an `Exception`, so that no program takes it for its own."""

    def __init__(self, arguments: argparse.Namespace):
        super().__init__()
        self.arguments = arguments


def check_block(code: str, *, run: bool, missing_heads: frozenset[str], hub: bool = False) -> list[str]:
    """Check every command of a block, in the current folder; returns what was done with each.

    run: scripts are run, too. missing_heads: entries of the config that are None in the embedded checkpoint.
    hub: there is one to publish to.
    """
    return [check(words, run=run, missing_heads=missing_heads, hub=hub) for words in commands(code)]


def commands(code: str) -> Iterator[list[str]]:
    """The words of each command; what the shell would do beyond that is refused."""
    for line in code.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        words: list[str] = []
        for word in [*lexer, "&&"]:
            if word == "&&":
                if words:
                    yield words
                words = []
            elif set(word) <= set("();<>|&") or "$" in word:
                raise CommandError(f"{line.strip()!r}: {word!r} has no check. Write a plain command.")
            else:
                words.append(word)


def check(words: list[str], *, run: bool, missing_heads: frozenset[str], hub: bool) -> str:
    while words and _ASSIGNMENT.match(words[0]):  # VARIABLE=value command
        words = words[1:]
    if not words or words[0] in ("export", "cd"):
        return "set"
    program, arguments = Path(words[0]).name, words[1:]
    if program == "pixelllm":
        return check_pixelllm(arguments, missing_heads, hub)
    if program not in CHECKS:
        raise CommandError(f"{shlex.join(words)!r}: no check knows {program!r}. Add one, or mark the block 'not run'.")
    _check_repository_paths(arguments)
    return CHECKS[program](arguments, run)


def check_pixelllm(arguments: list[str], missing_heads: frozenset[str], hub: bool) -> str:
    """Commands about images with the embedded model, and publishing, are run; of others the options are checked."""
    from pixelllm_hf.cli import main

    if arguments == ["--version"]:
        return _expect(0, main, arguments)
    parsed = parse_only(lambda: main(arguments), ["pixelllm", *arguments])
    task = parsed.command
    if task == "publish" and (hub or parsed.rehearse) and (parsed.folder / "config.json").is_file():
        return _expect(0, main, arguments)
    if task not in TASK_SPECS or parsed.model not in (None, EMBEDDED):
        return "parsed"
    head = TASK_SPECS[task].head
    if head is not None and head.config in missing_heads and (parsed.model or default_model(task)) == EMBEDDED:
        printed = _expect(2, main, arguments)
        if "head" not in printed and "detector" not in printed:
            raise CommandError(f"pixelllm {task} must say that the model lacks a head, but it says {printed!r}")
        return "refused: the embedded checkpoint lacks the head"
    return _expect(0, main, arguments)


def _expect(code: int, main: Callable[[list[str]], int], arguments: list[str]) -> str:
    printed = io.StringIO()
    with redirect_stdout(printed), redirect_stderr(printed):
        given = main(arguments)
    if given != code:
        raise CommandError(f"pixelllm {shlex.join(arguments)}: exit code {given}, not {code}\n{printed.getvalue()}")
    return printed.getvalue()


def parse_only(program: Callable[[], Any], argv: list[str]) -> Any:
    """What the program's own parser makes of `argv`; the program goes no further."""

    def stopping(parse: Callable[..., argparse.Namespace]) -> Callable[..., argparse.Namespace]:
        def parse_and_stop(self: argparse.ArgumentParser, *args: Any, **kwargs: Any) -> argparse.Namespace:
            raise Parsed(parse(self, *args, **kwargs))

        return parse_and_stop

    names = ("parse_args", "parse_intermixed_args")
    own = {name: getattr(argparse.ArgumentParser, name) for name in names}
    printed = io.StringIO()
    with _process_state(argv), redirect_stderr(printed):
        # parse_args calls parse_known_args alone, so the outermost of both names is the program's call
        for name, parse in own.items():
            setattr(argparse.ArgumentParser, name, stopping(parse))
        try:
            program()
        except Parsed as parsed:
            return parsed.arguments
        except SystemExit as stop:
            raise CommandError(f"{shlex.join(argv)}: exit {stop.code}\n{printed.getvalue()}") from None
        finally:
            for name, parse in own.items():
                setattr(argparse.ArgumentParser, name, parse)
    raise CommandError(f"{shlex.join(argv)} is refused:\n{printed.getvalue()}")


@contextmanager
def _process_state(argv: list[str]) -> Iterator[None]:
    """A program's own argv, and its changes of the environment taken back."""
    environment, own = dict(os.environ), sys.argv
    sys.argv = argv
    try:
        yield
    finally:
        sys.argv = own
        os.environ.clear()
        os.environ.update(environment)


def check_python(arguments: list[str], run: bool) -> str:
    """`python script.py …` and `python -m module …`."""
    if arguments[:2] in (["-m", "pytest"], ["-m", "mkdocs"]):
        return _installed(arguments[1])
    if arguments[0] == "-m":
        name, rest = arguments[1], arguments[2:]
        return _check_program(lambda: _run_module(name), [name, *rest], run)
    file = REPOSITORY / arguments[0]
    return _check_program(lambda: runpy.run_path(str(file), run_name="__main__"), arguments, run)


def _run_module(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of modules that other blocks have imported
        runpy.run_module(name, run_name="__main__")


def _check_program(program: Callable[[], Any], argv: list[str], run: bool) -> str:
    parsed = parse_only(program, argv)
    if hasattr(parsed, "config"):
        check_recipe(parsed.config, parsed.overrides)
    if not run:
        return "parsed"
    printed = io.StringIO()
    with _process_state(argv), redirect_stdout(printed), redirect_stderr(printed):
        try:
            program()
        except SystemExit as stop:
            if stop.code:
                raise CommandError(f"{shlex.join(argv)}: exit {stop.code}\n{printed.getvalue()}") from None
    return printed.getvalue()


def check_recipe(path: str, overrides: list[str]) -> None:
    """Every key of the recipe and of the overrides is one that the script knows."""
    from pixelllm_hf.training.config import load_config
    from pixelllm_hf.training.recipe import TrainConfig

    load_config(TrainConfig, path, overrides)


def check_accelerate(arguments: list[str], run: bool) -> str:
    """`accelerate launch … script …`: its own options and those of the script."""
    from accelerate.commands.launch import launch_command_parser

    if arguments[:1] != ["launch"]:
        raise CommandError(f"accelerate {shlex.join(arguments)}: only launch has a check")
    launched = parse_only(lambda: launch_command_parser().parse_args(arguments[1:]), ["accelerate", *arguments])
    script = ["-m"] if launched.module else []
    return check_python([*script, launched.training_script, *launched.training_script_args], False)


def check_make(arguments: list[str], run: bool) -> str:
    """The targets exist."""
    done = subprocess.run(["make", "--dry-run", *arguments], cwd=REPOSITORY, capture_output=True, text=True)
    if done.returncode:
        raise CommandError(f"make {shlex.join(arguments)}:\n{done.stderr}")
    return "dry run"


def check_pip(arguments: list[str], run: bool) -> str:
    """`pip install` of this repository, with extras that it has."""
    if arguments[:1] != ["install"]:
        raise CommandError(f"pip {shlex.join(arguments)}: only install has a check")
    for word in arguments[1:]:
        if not word.startswith("-") and not (match := re.fullmatch(r"\.(?:\[([\w,]+)\])?", word)):
            raise CommandError(f"pip install {word}: only this repository is installed")
        if not word.startswith("-") and match and (unknown := set((match[1] or "").split(",")) - {"", *_extras()}):
            raise CommandError(f"pip install {word}: setup.py has no extra {', '.join(sorted(unknown))}")
    return "parsed"


def check_docker(arguments: list[str], run: bool) -> str:
    """What is built has a Dockerfile, and the ports that are published are its own."""
    dockerfile = (REPOSITORY / "Dockerfile").read_text(encoding="utf-8")
    if arguments[:1] not in (["build"], ["run"]):
        raise CommandError(f"docker {shlex.join(arguments)}: only build and run have a check")
    for option, value in zip(arguments, arguments[1:], strict=False):
        if option == "--publish" and f"EXPOSE {value.partition(':')[2]}" not in dockerfile:
            raise CommandError(f"docker run --publish {value}: the Dockerfile has no such port")
    return "parsed"


def _extras() -> list[str]:
    tree = ast.parse((REPOSITORY / "setup.py").read_text(encoding="utf-8"))
    given = [k.value for k in ast.walk(tree) if isinstance(k, ast.keyword) and k.arg == "extras_require"]
    assert len(given) == 1 and isinstance(given[0], ast.Dict)
    return [str(key.value) for key in given[0].keys if isinstance(key, ast.Constant)]


def _installed(module: str) -> str:
    if importlib.util.find_spec(module) is None:
        raise CommandError(f"{module} is not installed")
    return "is installed"


def _check_repository_paths(arguments: list[str]) -> None:
    """What looks like a place in this repository is one."""
    for word in arguments:
        if re.match(r"(configs|scripts|src|tests|notebooks)/", word) and not (REPOSITORY / word).exists():
            raise CommandError(f"{word} is not in the repository")


CHECKS: dict[str, Callable[[list[str], bool], str]] = {
    "accelerate": check_accelerate,
    "bash": lambda arguments, run: "is there",  # a script of this repository
    "docker": check_docker,
    "make": check_make,
    "pip": check_pip,
    "python": check_python,
    "ruff": lambda arguments, run: _installed("ruff"),
}
