"""The subcommands, and the loop over pictures that all of them share."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pixelllm_hf.inference import Captioner, Request, first_lines
from pixelllm_hf.publishing import command as publishing

from . import demo_command
from .arguments import (
    add_box_argument,
    add_expression_arguments,
    add_model_arguments,
    add_writing_arguments,
    fraction,
    parse_points,
    positive,
)
from .drawings import Drawings
from .errors import OK, SOME_FAILED, UsageError
from .pictures import Inputs, find_pictures
from .printing import print_captions, print_objects
from .records import check_records, open_records


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
    add_box_argument(parser, default=" (default: the whole picture)")


def caption(args: argparse.Namespace) -> int:
    """Describe pictures, or places in them, with a location for every word."""
    task = "region" if args.boxes else "caption"
    return answer(args, Request(task, boxes=tuple(args.boxes), text=args.prompt))


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
    """Describe places in pictures."""
    if not args.boxes and not args.points:
        raise UsageError("region needs a place: --box x0,y0,x1,y1 or --point x,y. The whole picture: pixelllm caption.")
    return answer(args, Request("region", boxes=tuple(args.boxes), points=tuple(args.points), text=args.prompt))


def add_dense_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `pixelllm dense`."""
    add_model_arguments(parser)
    add_writing_arguments(parser)
    parser.add_argument("--max-results", type=positive, help="at most so many objects a picture (default: all)")
    parser.add_argument("--min-score", type=fraction, help="leave out objects with a lower score (default: none)")


def dense(args: argparse.Namespace) -> int:
    """Find the objects of pictures and describe each."""
    asked = Request("dense", text=args.prompt, max_results=args.max_results, min_score=args.min_score)
    return answer(args, asked)


def _expressions(args: argparse.Namespace) -> tuple[str, ...]:
    expressions = (args.expression, *args.more_expressions)
    for expression in expressions:
        if not expression.strip():
            raise UsageError('an expression is empty. Say what to find, e.g. "the red car".')
    if Path(args.expression).exists():  # then it was meant as a picture
        raise UsageError(
            f"after the pictures comes what to find in them, but {args.expression!r} is a file or folder. "
            f'Example: pixelllm {args.command} {args.expression} "the red car"'
        )
    return expressions


def answer(args: argparse.Namespace, request: Request) -> int:
    """Ask about all pictures: print, write records, draw. A picture that fails is reported and skipped."""
    inputs = find_pictures(args.images)
    drawings = Drawings.plan(args.draw, inputs.files)
    check_records(args.json, args.format, inputs)
    show = print_objects if request.about_objects else print_captions
    failed = dict(inputs.problems)
    with ExitStack() as stack:
        records = stack.enter_context(open_records(args.json, args.format, inputs))
        for argument, problem in inputs.problems.items():
            _report(argument, problem)
            records.add_failure(argument, problem)
        captioner = _load(args, request) if inputs.files else None
        for path, outcome in _outcomes(captioner, inputs, request, args.batch_size):
            if isinstance(outcome, Exception):
                failed[str(path)] = first_lines(outcome)
                _report(str(path), failed[str(path)])
                records.add_failure(str(path), failed[str(path)])
                continue
            try:
                drawn = drawings.draw(path, outcome, together=request.about_objects) if drawings else []
            except OSError as error:
                failed[str(path)] = f"the drawing cannot be written: {first_lines(error)}"
                _report(str(path), failed[str(path)])
                drawn = []
            show(path, outcome, drawn)
            records.add(path, outcome)
    if failed:
        total = len(inputs.files) + len(inputs.problems)
        print(f"pixelllm: {len(failed)} of {total} inputs failed", file=sys.stderr)
    return SOME_FAILED if failed else OK


def _load(args: argparse.Namespace, request: Request) -> Captioner:
    """The model, which must be able to do what is asked."""
    names = ("num_beams", "max_new_tokens")  # only of commands whose answer is written
    generation = {name: getattr(args, name) for name in names if hasattr(args, name)}
    captioner = Captioner.load(args.model, args.device, args.dtype, generation, revision=args.revision)
    captioner.require(request.task)
    return captioner


def _outcomes(
    captioner: Captioner | None, inputs: Inputs, request: Request, batch_size: int
) -> Iterator[tuple[Path, Any]]:
    """Each picture with its results, or with the exception that it met."""
    from tqdm import tqdm

    with tqdm(total=len(inputs.files), unit="picture", disable=not inputs.many, file=sys.stderr) as progress:
        for start in range(0, len(inputs.files), batch_size):
            paths = inputs.files[start : start + batch_size]
            for path, outcome in zip(paths, _outcomes_of_batch(captioner, paths, request), strict=True):
                with tqdm.external_write_mode(file=sys.stdout):
                    yield path, outcome
                progress.update()


def _outcomes_of_batch(captioner: Captioner | None, paths: Sequence[Path], request: Request) -> list[Any]:
    """The whole batch at once; if that fails, one by one, so that each picture bears its own error."""
    assert captioner is not None
    try:
        return list(captioner(list(paths), request))
    except (OSError, ValueError, TypeError, RuntimeError, MemoryError) as error:
        if len(paths) == 1:
            return [error]
        return [_outcomes_of_batch(captioner, [path], request)[0] for path in paths]


def _report(name: str, problem: str) -> None:
    """Tell of a failed input."""
    print(f"pixelllm: {problem if name in problem else f'{name}: {problem}'}", file=sys.stderr)


# A new task is one line here.
COMMANDS = {
    "caption": Command("describe pictures with a location for every word", add_caption_arguments, caption),
    "refer": Command("find what an expression means: a box", add_refer_arguments, refer),
    "segment": Command("find what an expression means: a box and a mask", add_refer_arguments, segment),
    "region": Command("describe places in pictures, given as boxes or points", add_region_arguments, region),
    "dense": Command("find the objects of pictures and describe each", add_dense_arguments, dense),
    "demo": Command(demo_command.HELP, demo_command.add_arguments, demo_command.run),
    "publish": Command(publishing.HELP, publishing.add_arguments, publishing.run),
}
