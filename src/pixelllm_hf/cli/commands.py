"""The subcommands: one for each task, and those that ask no model."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from pixelllm_hf.conversion import assemble_command
from pixelllm_hf.inference import Request
from pixelllm_hf.processing.tasks import TASK_SPECS, TaskSpec
from pixelllm_hf.publishing import command as publishing

from . import annotate_command, demo_command
from .answering import answer
from .arguments import (
    EXPRESSION,
    QUESTION,
    Words,
    add_location_arguments,
    add_model_arguments,
    add_object_arguments,
    add_words_arguments,
    add_writing_arguments,
)
from .errors import UsageError


@dataclass(frozen=True)
class Command:
    """A subcommand: one line of help, its arguments, and what it does with them (returns the exit code)."""

    help: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]


def all_commands() -> dict[str, Command]:
    """By their names, those of tasks first."""
    commands = {
        name: Command(spec.summary, partial(add_task_arguments, spec), partial(ask, spec))
        for name, spec in TASK_SPECS.items()
    }
    commands["annotate"] = Command(annotate_command.HELP, annotate_command.add_arguments, annotate_command.run)
    commands["demo"] = Command(demo_command.HELP, demo_command.add_arguments, demo_command.run)
    commands["assemble"] = Command(assemble_command.HELP, assemble_command.add_arguments, assemble_command.run)
    commands["publish"] = Command(publishing.HELP, publishing.add_arguments, publishing.run)
    return commands


def add_task_arguments(spec: TaskSpec, parser: argparse.ArgumentParser) -> None:
    """What the command of a task takes."""
    add_model_arguments(parser)
    if spec.is_written:
        add_writing_arguments(parser, has_words=not spec.needs_words)
    if spec.needs_words:
        add_words_arguments(parser, EXPRESSION if spec.text_is_answer else QUESTION)
    elif spec.finds_objects:
        add_object_arguments(parser)
    elif spec.region_task is not None:
        add_location_arguments(parser, default="" if spec.needs_locations else " (default: the whole image)")


def ask(spec: TaskSpec, args: argparse.Namespace) -> int:
    """Ask what the arguments say about all images; returns the exit code."""
    return answer(args, _request(spec, args))


def _request(spec: TaskSpec, args: argparse.Namespace) -> Request:
    if spec.needs_words:
        return Request(spec.name, expressions=_words(args, EXPRESSION if spec.text_is_answer else QUESTION))
    if spec.finds_objects:
        return Request(spec.name, text=args.prompt, max_results=args.max_results, min_score=args.min_score)
    if spec.region_task is None:
        return Request(spec.name, text=args.prompt)
    if args.boxes or args.points:
        return Request(spec.region_task, boxes=tuple(args.boxes), points=tuple(args.points), text=args.prompt)
    if spec.needs_locations:
        raise UsageError(
            f"{spec.name} needs a location: --box x0,y0,x1,y1 or --point x,y. The whole image: pixelllm caption."
        )
    return Request(spec.name, text=args.prompt)


def _words(args: argparse.Namespace, kind: Words) -> tuple[str, ...]:
    words = (args.words, *args.more_words)
    if not all(text.strip() for text in words):
        raise UsageError(f'{kind.name} is empty. Say {kind.wanted}, e.g. "{kind.example}".')
    if os.path.exists(args.words):  # then it was meant as an image
        raise UsageError(
            f"after the images comes {kind.wanted}, but {args.words!r} is a file or folder. "
            f'Example: pixelllm {args.command} {args.words} "{kind.example}"'
        )
    return words
