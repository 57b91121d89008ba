"""The subcommands, and what each of them asks."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from dataclasses import dataclass

from pixelllm_hf.inference import Request
from pixelllm_hf.publishing import command as publishing

from . import demo_command
from .answering import answer
from .arguments import (
    add_box_argument,
    add_expression_arguments,
    add_model_arguments,
    add_writing_arguments,
    fraction,
    parse_points,
    positive,
)
from .errors import UsageError


@dataclass(frozen=True)
class Command:
    """A subcommand: one line of help, its arguments, and what it does with them (returns the exit code)."""

    help: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]


def add_caption_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `pixelllm caption`."""
    add_model_arguments(parser)
    add_writing_arguments(parser)
    add_box_argument(parser, default=" (default: the whole image)")


def caption(args: argparse.Namespace) -> int:
    """Describe images, or places in them, with a location for every word."""
    task = "region" if args.boxes else "caption"
    return answer(args, Request(task, boxes=tuple(args.boxes), text=args.prompt))


def add_trace_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `pixelllm trace`."""
    add_model_arguments(parser)
    add_writing_arguments(parser)


def trace(args: argparse.Namespace) -> int:
    """Describe whole images at length, with a location for every word."""
    return answer(args, Request("trace", text=args.prompt))


def add_refer_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `pixelllm refer` and `pixelllm segment`."""
    add_model_arguments(parser)
    add_expression_arguments(parser)


def refer(args: argparse.Namespace) -> int:
    """Find what an expression means: a box."""
    return answer(args, Request("refer", expressions=_expressions(args)))


def segment(args: argparse.Namespace) -> int:
    """Find what an expression means: a box and a mask."""
    return answer(args, Request("segment", expressions=_expressions(args)))


def add_region_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `pixelllm region`."""
    add_model_arguments(parser)
    add_writing_arguments(parser)
    add_box_argument(parser)
    parser.add_argument(
        "--point",
        metavar="x,y[,x,y...]",
        dest="points",
        action="append",
        type=parse_points,
        default=[],
        help="describe what is at this point (or these points of one object); may be repeated",
    )


def region(args: argparse.Namespace) -> int:
    """Describe places in images."""
    if not args.boxes and not args.points:
        raise UsageError("region needs a place: --box x0,y0,x1,y1 or --point x,y. The whole image: pixelllm caption.")
    return answer(args, Request("region", boxes=tuple(args.boxes), points=tuple(args.points), text=args.prompt))


def add_dense_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `pixelllm dense`."""
    add_model_arguments(parser)
    add_writing_arguments(parser)
    parser.add_argument("--max-results", type=positive, help="at most so many objects a image (default: all)")
    parser.add_argument("--min-score", type=fraction, help="leave out objects with a lower score (default: none)")


def dense(args: argparse.Namespace) -> int:
    """Find the objects of images and describe each."""
    asked = Request("dense", text=args.prompt, max_results=args.max_results, min_score=args.min_score)
    return answer(args, asked)


def _expressions(args: argparse.Namespace) -> tuple[str, ...]:
    expressions = (args.expression, *args.more_expressions)
    for expression in expressions:
        if not expression.strip():
            raise UsageError('an expression is empty. Say what to find, e.g. "the red car".')
    if os.path.exists(args.expression):  # then it was meant as a image
        raise UsageError(
            f"after the images comes what to find in them, but {args.expression!r} is a file or folder. "
            f'Example: pixelllm {args.command} {args.expression} "the red car"'
        )
    return expressions


# A new task is one line here.
COMMANDS = {
    "caption": Command("describe images with a location for every word", add_caption_arguments, caption),
    "trace": Command("describe images at length with a location for every word", add_trace_arguments, trace),
    "refer": Command("find what an expression means: a box", add_refer_arguments, refer),
    "segment": Command("find what an expression means: a box and a mask", add_refer_arguments, segment),
    "region": Command("describe places in images, given as boxes or points", add_region_arguments, region),
    "dense": Command("find the objects of images and describe each", add_dense_arguments, dense),
    "demo": Command(demo_command.HELP, demo_command.add_arguments, demo_command.run),
    "publish": Command(publishing.HELP, publishing.add_arguments, publishing.run),
}
