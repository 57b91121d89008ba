"""What can be said to the commands, and what is wrong with what was said."""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass
from pathlib import Path

from pixelllm_hf.decoding import LONGEST
from pixelllm_hf.inference import BoxXYXY, ModelError, Points, check_device_name

from .records import FORMATS

DTYPES = ("auto", "float32", "bfloat16", "float16")


def parse_box(text: str) -> BoxXYXY:
    """Four numbers with commas, in pixels of the original image.

    >>> parse_box("10,20,200,180")
    (10.0, 20.0, 200.0, 180.0)
    """
    try:
        x0, y0, x1, y1 = (float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"a box is four numbers x0,y0,x1,y1 in pixels, but came as {text!r}. Example: --box 10,20,200,180"
        ) from None
    if not all(map(math.isfinite, (x0, y0, x1, y1))) or x1 <= x0 or y1 <= y0:
        raise argparse.ArgumentTypeError(
            f"a box goes from its left top corner to its right bottom one, but came as {text!r}. "
            "Example: --box 10,20,200,180"
        )
    return x0, y0, x1, y1


def parse_points(text: str) -> Points:
    """One or more points x,y of one prompt, in pixels of the original image.

    >>> parse_points("10,20,30,40")
    ((10.0, 20.0), (30.0, 40.0))
    """
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = []
    if not values or len(values) % 2 or not all(map(math.isfinite, values)):
        raise argparse.ArgumentTypeError(
            f"a point is two numbers x,y in pixels (several of one object: x,y,x,y), but came as {text!r}. "
            "Example: --point 120,80"
        )
    return tuple(zip(values[::2], values[1::2], strict=True))


def positive(text: str) -> int:
    """A whole number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, but it is {text!r}.")
    return int(text)


def device(text: str) -> str:
    """A name that a device can have."""
    try:
        return check_device_name(text)
    except ModelError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def fraction(text: str) -> float:
    """A number from 0 to 1."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"expected a number from 0 to 1, but it is {text!r}.")
    return value


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """What every command with a model takes."""
    parser.add_argument(
        "images", nargs="+", metavar="image", help="image file, folder of images, or - (standard input)"
    )
    parser.add_argument("-r", "--recursive", action="store_true", help="the images in sub-folders of folders, too")
    parser.add_argument("--model", help="folder or hub id of a model (default: the embedded one that does the task)")
    parser.add_argument("--revision", help="branch, tag or commit of a model of the Hub (default: its main branch)")
    parser.add_argument(
        "--json", metavar="FILE", type=Path, help="write the answers, one JSON record a line; - is standard output"
    )
    parser.add_argument(
        "--format", choices=FORMATS, default="plain", help=f"of --json: {'; '.join(FORMATS.values())} (default: plain)"
    )
    parser.add_argument(
        "--resume", action="store_true", help="go on with the records that an interrupted run has left in --json"
    )
    parser.add_argument(
        "--draw", metavar="PATH", type=Path, help="write the drawing: a file, or a folder when there are several"
    )
    parser.add_argument("--batch-size", type=positive, default=8, help="images at a time (default: 8)")
    add_device_argument(parser)
    parser.add_argument("--dtype", choices=DTYPES, default="auto", help="of the model's weights (default: auto)")


def add_device_argument(parser: argparse.ArgumentParser) -> None:
    """--device, of every command that runs a model."""
    parser.add_argument(
        "--device",
        type=device,
        default="auto",
        help="cpu, cuda, cuda:0, mps, … (default: auto, the accelerator if any)",
    )


def add_writing_arguments(parser: argparse.ArgumentParser, *, has_words: bool) -> None:
    """How the model writes, for tasks whose answer is a text; has_words: of its own, which --prompt replaces."""
    parser.add_argument(
        "--num-beams", type=positive, help="beam search with so many beams, 1 is greedy (default: the model's own)"
    )
    parser.add_argument(
        "--max-new-tokens", type=positive, help=f"longest answer (default: the model's own, or {LONGEST})"
    )
    if has_words:
        parser.add_argument("--prompt", help="what to say to the model instead of the task's own words")


def add_location_arguments(parser: argparse.ArgumentParser, default: str) -> None:
    """--box and --point, any number of times."""
    parser.add_argument(
        "--box",
        metavar="x0,y0,x1,y1",
        dest="boxes",
        action="append",
        type=parse_box,
        default=[],
        help=f"describe what is in this box, in pixels of the image; may be repeated{default}",
    )
    parser.add_argument(
        "--point",
        metavar="x,y[,x,y...]",
        dest="points",
        action="append",
        type=parse_points,
        default=[],
        help="describe what is at this point (or these points of one object); may be repeated",
    )


def add_object_arguments(parser: argparse.ArgumentParser) -> None:
    """Which of the objects that are found are answers."""
    parser.add_argument("--max-results", type=positive, help="at most so many objects an image (default: all)")
    parser.add_argument("--min-score", type=fraction, help="leave out objects with a lower score (default: none)")


@dataclass(frozen=True)
class Words:
    """What of the user's own words a task needs, in messages."""

    name: str
    metavar: str
    wanted: str
    example: str


EXPRESSION = Words("an expression", "expression", "what to find in them", "the red car")
QUESTION = Words("a question", "question", "what to ask about them", "what here can be eaten?")


def add_words_arguments(parser: argparse.ArgumentParser, kind: Words) -> None:
    """The user's words, of tasks that have none of their own."""
    parser.add_argument(
        "words", metavar=kind.metavar, help=f'{kind.wanted}, e.g. "{kind.example}"; comes after the images'
    )
    parser.add_argument(
        "--also",
        metavar=kind.metavar.upper(),
        dest="more_words",
        action="append",
        default=[],
        help=f"another {kind.metavar} for the same images; may be repeated",
    )
