"""The command `pixelllm annotate`: one question about every image of a data set, in one process or many.

pixelllm annotate --dataset photos/ --out annotated/ --task caption
accelerate launch --num_processes 8 -m pixelllm_hf annotate --dataset org/photos --out annotated/ --task dense
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pixelllm_hf.inference import ModelSource, Request, default_model, first_lines
from pixelllm_hf.processing.tasks import TASK_SPECS

from .arguments import DTYPES, add_device_argument, add_writing_arguments, fraction, positive
from .errors import OK, SOME_FAILED, UsageError, ended_by_signals

if TYPE_CHECKING:
    from pixelllm_hf.data.image_streams import ImageStream, StreamedImage
    from pixelllm_hf.inference.annotation_shards import AnnotatedImage, AnnotationShards

HELP = "ask one question about every image of a data set, into parquet shards"
_TOLD_EVERY = 10.0  # seconds
Answer = Callable[[Sequence["StreamedImage"]], "list[AnnotatedImage]"]


def tasks() -> list[str]:
    """Those that need no location of the user."""
    return [name for name, spec in TASK_SPECS.items() if not spec.needs_locations]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `pixelllm annotate`."""
    parser.add_argument("--dataset", required=True, metavar="DIR_OR_ID", help="folder of images, or a data set")
    parser.add_argument("--split", default="train", help="of a data set (default: train)")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder for the shards")
    parser.add_argument("--task", choices=tasks(), default="caption", help="what is asked (default: caption)")
    parser.add_argument(
        "--expression",
        dest="expressions",
        action="append",
        default=[],
        help="what to find, or a question of task reason; may be repeated",
    )
    parser.add_argument("--max-results", type=positive, help="at most so many objects an image (default: all)")
    parser.add_argument("--min-score", type=fraction, help="leave out objects with a lower score (default: none)")
    parser.add_argument("--model", help="folder or hub id of a model (default: the embedded one that does the task)")
    parser.add_argument("--revision", help="branch, tag or commit of a model of the Hub (default: its main branch)")
    parser.add_argument("--shard-size", type=positive, default=1000, help="images in a shard (default: 1000)")
    parser.add_argument("--batch-size", type=positive, default=8, help="images at a time (default: 8)")
    parser.add_argument("--limit", type=positive, help="only the first so many images")
    add_writing_arguments(parser, has_words=True)
    add_device_argument(parser)
    parser.add_argument("--dtype", choices=DTYPES, default="auto", help="of the model's weights (default: auto)")


def run(args: argparse.Namespace) -> int:
    """Annotate what falls to this process; returns the exit code."""
    from pixelllm_hf.data.image_streams import ImageStreamError, open_images
    from pixelllm_hf.inference.annotation_shards import AnnotationError, AnnotationShards

    request = _request(args)
    process, processes = _place("RANK", 0), _place("WORLD_SIZE", 1)
    if process >= processes:
        raise UsageError(
            f"RANK is {process}, but of {processes} processes (WORLD_SIZE) the last is {processes - 1}: nothing would "
            "fall to this one. Start all of them with accelerate launch or torchrun, or unset both."
        )
    model = args.model or default_model(request.task)
    source = ModelSource.find(model, args.revision)
    settings = {
        "dataset": args.dataset, "split": args.split, "limit": args.limit, "model": model,
        "revision": args.revision, "task": request.task, "expressions": list(request.expressions), "text": request.text,
        "max_results": request.max_results, "min_score": request.min_score, "num_beams": args.num_beams,
        "max_new_tokens": args.max_new_tokens,
    }  # fmt: skip
    try:
        images = open_images(args.dataset, split=args.split, limit=args.limit, apart_from=args.out)
        shards = AnnotationShards(args.out, settings, shard_size=args.shard_size)
        with ended_by_signals():
            return annotate(
                images,
                shards,
                _answerer(source, args, request),
                batch_size=args.batch_size,
                process=process,
                processes=processes,
            )
    except (AnnotationError, ImageStreamError, ImportError) as error:
        raise UsageError(str(error)) from error


def annotate(
    images: ImageStream,
    shards: AnnotationShards,
    answer: Answer,
    *,
    batch_size: int | None = None,
    process: int = 0,
    processes: int = 1,
) -> int:
    """Write the shards of this process that are not there yet, asking about so many images at a time (None: a shard's).

    Returns the exit code: of one process among several it tells nothing of images that failed, or launchers would take
    it for lost and end the others.
    """
    size = shards.shard_size
    own = None if images.total is None else _share(images.total, size, process, processes)
    if images.total is not None:
        shards.check_end(images.total)
    done = failed = kept = 0
    began = told = time.monotonic()

    def wanted(shard: int) -> bool:
        count = None if images.total is None else min(size, images.total - shard * size)
        return shard % processes == process and not shards.is_done(shard, count, images.names(shard, size))

    def skipped(shard: int, count: int) -> None:
        nonlocal kept
        if shard % processes == process:
            kept += count
            if images.total is None:
                shards.check_skipped(shard, count)

    seen = 0
    for number, group in images.groups(size, wanted, skipped):
        seen = number + 1
        if group is None:
            continue
        annotated: list[AnnotatedImage] = []
        for start in range(0, len(group), batch_size or size):
            annotated += answer(group[start : start + (batch_size or size)])
            if time.monotonic() - told > _TOLD_EVERY:
                told = time.monotonic()
                _tell(process, processes, _progress(done + len(annotated), kept, own, told - began))
        shards.write(number, annotated)
        done += len(annotated)
        failed += sum(image.error is not None for image in annotated)
    total = images.total if images.total is not None else _counted(shards, seen)
    if total is not None:
        shards.note_end(total)
    missing = shards.missing()
    if missing == []:
        shards.remove_unfinished()
    there = f", {kept} were there" if kept else ""
    others = "" if not missing else f"; {len(missing)} shards of others are to come"
    _tell(process, processes, f"{done} images annotated, {failed} of them failed{there}{others}")
    return SOME_FAILED if failed and processes == 1 else OK


def _share(total: int, shard_size: int, process: int, processes: int) -> int:
    """Images of the shards of this process."""
    shards = range(process, -(-total // shard_size), processes)
    return sum(min(shard_size, total - shard * shard_size) for shard in shards)


def _counted(shards: AnnotationShards, groups: int) -> int | None:
    """Images of a stream that tells no number, from its last shard; None where that is still to be written."""
    import pyarrow.parquet as pq

    if not groups:
        return 0
    last = shards.path(groups - 1)
    return (groups - 1) * shards.shard_size + pq.read_metadata(last).num_rows if last.is_file() else None


def _progress(done: int, kept: int, own: int | None, seconds: float) -> str:
    rate = done / seconds
    if own is None:
        return f"{done} images annotated, {rate:.2f} a second"
    left = max(own - min(kept, own) - done, 0)
    return f"{done + min(kept, own)} of {own} images, {rate:.2f} a second, {_time(left / rate)} to go"


def _time(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}"


def _answerer(source: ModelSource, args: argparse.Namespace, request: Request) -> Answer:
    """Asks the model, which is loaded when the first question comes."""
    from pixelllm_hf.inference import Captioner
    from pixelllm_hf.inference.annotation_shards import AnnotatedImage

    from .answering import outcomes_of_batch

    loaded: list[Captioner] = []

    def answer(images: Sequence[StreamedImage]) -> list[AnnotatedImage]:
        if not loaded:
            generation = {"num_beams": args.num_beams, "max_new_tokens": args.max_new_tokens}
            captioner = Captioner.load(source, _device(args.device), args.dtype, generation)
            captioner.require(request.task)
            loaded.append(captioner)
        annotated: list[AnnotatedImage] = []
        for image, outcome in zip(images, outcomes_of_batch(loaded[0], images, request), strict=True):
            problem = first_lines(outcome) if isinstance(outcome, Exception) else None
            annotated.append(AnnotatedImage(image.index, image.name, () if problem else tuple(outcome), problem))
        return annotated

    return answer


def _device(name: str) -> str:
    """Each process of a machine has an accelerator of its own."""
    import torch

    kind = torch.accelerator.current_accelerator()
    if name != "auto" or "LOCAL_RANK" not in os.environ or kind is None:
        return name
    return f"{kind.type}:{_place('LOCAL_RANK', 0) % torch.accelerator.device_count()}"


def _request(args: argparse.Namespace) -> Request:
    spec = TASK_SPECS[args.task]
    if spec.needs_words != bool(args.expressions):
        needs = "needs --expression, what to find or to answer" if spec.needs_words else "takes no --expression"
        raise UsageError(f"task {args.task} {needs}.")
    if not spec.finds_objects and (args.max_results is not None or args.min_score is not None):
        raise UsageError(f"task {args.task} finds no objects: leave --max-results and --min-score out.")
    text = None if spec.needs_words else args.prompt
    return Request(
        spec.name,
        expressions=tuple(args.expressions),
        text=text,
        max_results=args.max_results,
        min_score=args.min_score,
    )


def _place(variable: str, otherwise: int) -> int:
    """What a launcher (accelerate, torchrun) has told this process."""
    told = os.environ.get(variable, str(otherwise))
    if not told.isascii() or not told.isdecimal():
        raise UsageError(f"the environment says {variable}={told!r}, which is no whole number. Unset it.")
    return int(told)


def _tell(process: int, processes: int, what: str) -> None:
    who = f"process {process} of {processes}: " if processes > 1 else ""
    print(f"pixelllm: {who}{what}", file=sys.stderr, flush=True)


__all__ = ["HELP", "add_arguments", "annotate", "run"]
