"""The command `pixelllm publish`.

pixelllm publish runs/tiny/final org/pixelllm-tiny --private
pixelllm publish runs/tiny/final org/pixelllm-tiny --rehearse
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .repository import Publication

HELP = "put a model, and a demo of it, on the Hub"
OK, FAILED, WRONG_USAGE = 0, 1, 2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `pixelllm publish`."""
    parser.add_argument("folder", type=Path, metavar="DIR", help="folder of the model, as save_pretrained writes it")
    parser.add_argument("repo_id", metavar="org/name", help="the model's name on the Hub")
    parser.add_argument("--private", action="store_true", default=None, help="only its owners can see it")
    parser.add_argument("--revision", metavar="BRANCH", help="publish to this branch (default: main)")
    parser.add_argument("--license", metavar="ID", help="licence of the weights, e.g. apache-2.0 (default: the card's)")
    parser.add_argument("--card", type=Path, metavar="FILE", help="the card's text (default: README.md of the folder)")
    parser.add_argument(
        "--evaluation", dest="evaluations", action="append", type=Path, metavar="FILE",
        help="JSON of scripts/evaluate.py; may be repeated (default: evaluation_*.json of the folder)",
    )  # fmt: skip
    parser.add_argument(
        "--example", dest="examples", action="append", type=Path, metavar="IMAGE",
        help="caption and show this image; may be repeated (default: two composed scenes)",
    )  # fmt: skip
    parser.add_argument("--no-examples", dest="examples", action="store_const", const=[], help="show no images")
    parser.add_argument("--space", metavar="org/space", help="publish the demo as well, with this model")
    parser.add_argument("--demo", type=Path, metavar="DIR", help="the demo's folder (default: that of the source tree)")
    parser.add_argument("--message", default="Publish PixelLLM", help="message of the commit")
    parser.add_argument("--rehearse", action="store_true", help="check and prepare everything, send nothing")


def run(args: argparse.Namespace) -> int:
    """Publish as told; returns the exit code."""
    from transformers.utils import logging

    from .errors import AccessError, PublishError, UploadError
    from .repository import publish_model, publish_space

    logging.set_verbosity_error()  # remarks for programmers
    logging.disable_progress_bar()
    try:
        demo = _demo_folder(args.demo) if args.space else None
        _print(
            publish_model(
                args.folder,
                args.repo_id,
                private=args.private,
                revision=args.revision,
                card=args.card,
                evaluations=args.evaluations,
                examples=args.examples,
                license=args.license,
                message=args.message,
                rehearse=args.rehearse,
            )
        )
        if demo is not None:
            _print(
                publish_space(
                    demo, args.space, model_id=args.repo_id, private=args.private, message=args.message,
                    rehearse=args.rehearse,
                )
            )  # fmt: skip
    except (AccessError, UploadError) as error:
        print(f"pixelllm: {error}", file=sys.stderr)
        return FAILED
    except PublishError as error:
        print(f"pixelllm: {error}", file=sys.stderr)
        return WRONG_USAGE
    return OK


def _demo_folder(given: Path | None) -> Path:
    from .errors import PublishError

    folder = given if given is not None else Path(__file__).parents[3] / "demo"
    if not (folder / "app.py").is_file():
        raise PublishError(f"{folder} has no app.py, so there is no demo to publish. Give its folder with --demo.")
    return folder


def _print(done: Publication) -> None:
    if done.commit is None:
        print(f"{done.repo_id} ({done.kind}): {len(done.files)} files would be sent")
    else:
        print(f"{done.url}\n  revision {done.revision}, commit {done.commit}, {len(done.files)} files")
    if done.commit is None and done.kind != "space":  # the Space's many files are those of the package
        for name in done.files:
            print(f"  {name}")
    if done.removed:
        print(f"  no longer there: {', '.join(done.removed)}")
    if done.left_out:
        print(f"  not sent: {', '.join(done.left_out)}")
