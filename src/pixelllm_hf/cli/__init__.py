"""The command `pixelllm`.

pixelllm caption photo.jpg --draw out.png
pixelllm segment photo.jpg "the red car" --json out.jsonl
pixelllm dense photos/ --model org/pixelllm --json out.json --format coco

Exit codes: 0 all well, 1 some inputs failed (the others are done), 2 wrong usage.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from pixelllm_hf import __version__
from pixelllm_hf.inference import ModelError, first_lines

from .commands import all_commands
from .errors import OK, SOME_FAILED, WRONG_USAGE, Terminated, UsageError
from .parser import Parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    # Threads that wait by spinning bring a machine with other work to a crawl; read when torch is first imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    for stream in (sys.stdout, sys.stderr):  # a name or an answer that the terminal cannot show ends nothing
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    parser = Parser(prog="pixelllm", description="Captions, expressions and objects with their locations in images.")
    parser.add_argument("--version", action="version", version=f"pixelllm {__version__}")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="command")
    commands = all_commands()
    for name, command in commands.items():
        subparser = subparsers.add_parser(name, help=command.help, description=command.help)
        command.add_arguments(subparser)
    try:
        args = parser.parse_args(arguments)
    except SystemExit as stop:  # argparse has printed help or the mistake
        return stop.code if isinstance(stop.code, int) else WRONG_USAGE
    try:
        return commands[args.command].run(args)
    except (UsageError, ModelError) as error:
        print(f"pixelllm: {error}", file=sys.stderr)
        return WRONG_USAGE
    except KeyboardInterrupt as stop:
        _tell_of_end(stop, "interrupted")
        return stop.exit_code if isinstance(stop, Terminated) else 130
    except BrokenPipeError:  # the reader of our output has gone, e.g. `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # so that flushing at exit does not complain
        return SOME_FAILED
    except OSError as error:  # a full disk while the records are written
        _tell_of_end(error, first_lines(error))
        return SOME_FAILED


def _tell_of_end(error: BaseException, otherwise: str) -> None:
    """What the command has noted about how far it came."""
    print(f"pixelllm: {' '.join(getattr(error, '__notes__', [])) or otherwise}", file=sys.stderr)


__all__ = ["OK", "SOME_FAILED", "WRONG_USAGE", "UsageError", "all_commands", "main"]
