"""The command `pixelllm assemble`.

pixelllm assemble --sam facebook/sam-vit-huge --eva02 timm/eva02_large_patch14_224.mim_in22k \\
    --lm google/flan-t5-xl --out checkpoints/pixelllm-t5-xl
"""

from __future__ import annotations

import argparse
import re
import sys
from collections import Counter
from pathlib import Path

from pixelllm_hf.safetensors_files import STORED_AS

HELP = "make a model to train from published SAM, EVA02 and language model weights"
OK, FAILED, WRONG_USAGE = 0, 1, 2
_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9}


def shard_size(text: str) -> int:
    """Bytes of `5GB`, `200MB`.

    >>> shard_size("200MB")
    200000000
    """
    match = re.fullmatch(r"(\d+)([KMG]B)?", text.upper())
    if match is None or not int(match[1]):
        raise argparse.ArgumentTypeError(f"expected a size such as 5GB or 200MB, but it is {text!r}.")
    return int(match[1]) * _UNITS[match[2] or ""]


def seed_number(text: str) -> int:
    """A seed that torch takes."""
    if not re.fullmatch(r"-?\d{1,18}", text):
        raise argparse.ArgumentTypeError(f"expected a whole number of at most 18 digits, but it is {text!r}.")
    return int(text)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `pixelllm assemble`."""
    where = "a file, a folder, org/name of the Hub, or org/name/path/to/file there"
    parser.add_argument("--sam", required=True, metavar="WEIGHTS", help=f"SAM, original or transformers': {where}")
    parser.add_argument("--eva02", metavar="WEIGHTS", help=f"EVA02, original or timm's: {where}")
    parser.add_argument(
        "--backbone", action="append", default=[], metavar="WEIGHTS",
        help="a backbone of transformers with its config.json, beside EVA02 or in its place; may be given again",
    )  # fmt: skip
    parser.add_argument(
        "--lm", metavar="WEIGHTS", help="language model: T5's family or decoder-only, with its config.json"
    )
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder to make")
    parser.add_argument(
        "--config", metavar="NAME",
        help="what the model is to be: t5_xl, bert, or a folder with a config.json (default: the paper's, with the "
        "sizes of the weights)",
    )  # fmt: skip
    parser.add_argument("--image-size", type=int, default=384, help="side of the canvas, without --config")
    parser.add_argument(
        "--heads", nargs="*", choices=("mask", "dense"), default=[],
        help="heads that the model has, without --config (default: none; recipes add theirs)",
    )  # fmt: skip
    parser.add_argument(
        "--dtype", choices=STORED_AS, default="float32", help="of the stored tensors (default: float32)"
    )
    parser.add_argument("--tokenizer", metavar="DIR", help="folder or Hub id (default: the language model's)")
    parser.add_argument("--max-shard-size", type=shard_size, default=shard_size("5GB"), help="default: 5GB")
    parser.add_argument("--seed", type=seed_number, default=0, help="of the parts that start anew (default: 0)")
    parser.add_argument("--quiet", action="store_true", help="no line for each tensor")


def run(args: argparse.Namespace) -> int:
    """Assemble as told; returns the exit code."""
    import torch
    from transformers.utils import logging

    from pixelllm_hf.folders import FolderInUseError

    from .assembling import AssemblyError, assemble, assembled_processor, check_target, make_plan
    from .new_tensors import parts_of
    from .weight_sources import WeightSourceError

    logging.set_verbosity_error()  # remarks for programmers
    try:
        check_target(args.out)  # before anything is read or listed
        plan = make_plan(
            sam=args.sam,
            eva02=args.eva02,
            lm=args.lm,
            backbones=args.backbone,
            config=_config(args.config),
            image_size=args.image_size,
            heads=args.heads,
            dtype=getattr(torch, args.dtype),
        )
        processor = assembled_processor(plan, args.tokenizer)
        if not args.quiet:
            for row in plan.rows:
                print(f"{row.fate:<8}{row.kind:<20}{row.name} {_shape(row.shape)} {row.dtype}  {row.where}")
        for kind, part in plan.parts.items():
            fates = Counter(row.fate for row in plan.rows if row.kind == kind)
            print(f"{kind}: {part.layout.name}, {', '.join(f'{count} {fate}' for fate, count in fates.items())}")
        for name, count in parts_of(plan).items():
            print(f"{name}: {count / 1e6:.2f} M parameters start anew")
        folder = assemble(
            plan,
            args.out,
            processor=processor,
            max_shard_bytes=args.max_shard_size,
            seed=args.seed,
            told=lambda line: print(line, flush=True),
        )
    except (AssemblyError, WeightSourceError, FolderInUseError) as error:
        print(f"pixelllm: {error}", file=sys.stderr)
        return WRONG_USAGE
    except OSError as error:  # a full disk, no right to write there
        written = "What was written stays; the same command goes on from there."
        print(f"pixelllm: {str(args.out)!r} could not be written: {error}. {written}", file=sys.stderr)
        return FAILED
    total = sum(tensor.num_values for tensor in plan.tensors.values())
    print(f"{folder}: {total / 1e9:.3f} B parameters")
    return OK


def _config(name: str | None):  # type: ignore[no-untyped-def]
    from ..modeling.configuration_pixelllm import PixelLLMConfig
    from .published_part import AssemblyError

    if name is None:
        return None
    if name in ("t5_xl", "bert"):
        return getattr(PixelLLMConfig, name)()
    if not (Path(name) / "config.json").is_file():
        raise AssemblyError(f"--config must be t5_xl, bert or a folder with a config.json, but is {name!r}.")
    try:
        return PixelLLMConfig.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise AssemblyError(str(error)) from error


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "scalar"
