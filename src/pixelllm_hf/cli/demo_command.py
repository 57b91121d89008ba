"""`pixelllm demo`: the page of the demo on this machine."""

from __future__ import annotations

import argparse
from pathlib import Path

from .arguments import add_device_argument, positive
from .errors import OK, UsageError

HELP = "serve a page on which images are described"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `pixelllm demo`."""
    from pixelllm_hf.space.launching import MAX_QUEUE

    parser.add_argument(
        "--model", dest="models", action="append", metavar="MODEL",
        help="folder or hub id; may be repeated for a choice (default: $PIXELLLM_MODEL, else the embedded one)",
    )  # fmt: skip
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at (default: this machine alone)")
    parser.add_argument("--port", type=positive, help="port (default: the first free one from 7860 on)")
    parser.add_argument("--share", action="store_true", help="make it public through a tunnel of gradio's")
    parser.add_argument(
        "--max-queue", type=positive, default=MAX_QUEUE, help=f"requests that may wait (default: {MAX_QUEUE})"
    )
    parser.add_argument("--examples", type=Path, metavar="DIR", help="images to offer (default: the demo's)")
    add_device_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Serve until interrupted; returns the exit code."""
    from pixelllm_hf.extras import MissingExtraError
    from pixelllm_hf.space.gradio_internals import UnknownGradioError
    from pixelllm_hf.space.launching import default_models, end_in_order, start_demo

    if args.examples is not None and not args.examples.is_dir():
        raise UsageError(f"--examples needs a folder of images, but {str(args.examples)!r} is none.")
    end_in_order()
    try:
        demo = start_demo(
            args.models or default_models(),
            host=args.host,
            port=args.port,
            share=args.share,
            max_queue=args.max_queue,
            examples=args.examples or _source_tree_examples(),
            device=args.device,
        )
    except (MissingExtraError, UnknownGradioError) as error:
        raise UsageError(str(error)) from error
    try:
        demo.wait()
    finally:
        demo.close()
    return OK


def _source_tree_examples() -> Path | None:
    folder = Path(__file__).parents[3] / "demo" / "examples"
    return folder if folder.is_dir() else None
