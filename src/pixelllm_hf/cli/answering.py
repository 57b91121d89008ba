"""One question about all images of a command: printed, written down, drawn."""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TextIO

from pixelllm_hf.inference import EMBEDDED, ModelSource, Request, check_model_name, default_model, first_lines
from pixelllm_hf.processing.grounded_targets import PartialAnswerWarning
from pixelllm_hf.processing.tasks import task_spec

from .drawings import Drawings
from .errors import OK, SOME_FAILED, UsageError, ended_by_signals
from .images import ImageInput, Inputs, find_images
from .printing import print_captions, print_objects
from .record_lines import Records, is_stdout
from .records import PlainLines, check_records, open_records

if TYPE_CHECKING:
    from pixelllm_hf.data.image_streams import StreamedImage
    from pixelllm_hf.inference import Captioner


def answer(args: argparse.Namespace, request: Request) -> int:
    """Ask about all images. What fails is reported and the rest is done; what can be checked without a model is
    checked before torch is imported."""
    model = args.model or _default_model(request.task)
    check_model_name(model, args.revision)
    inputs = find_images(args.images, recursive=args.recursive)
    try:
        drawings = Drawings.plan(args.draw, inputs.images)
        check_records(args.json, args.format, inputs, resume=args.resume)
    except OSError as error:  # a name that no file can have, links in a circle
        raise UsageError(f"the answers cannot be written: {first_lines(error)}") from error
    source = ModelSource.find(model, args.revision) if inputs.usable else None
    for told in inputs.left_out:
        _tell(told)
    with (
        ended_by_signals(),
        _told_warnings(),
        open_records(args.json, args.format, inputs, resume=args.resume) as records,
    ):
        captioner: Captioner | None = None
        refused: dict[str, str] = {}
        if source is not None:
            captioner = _load(source, args, request)
            request, refused = _with_readable_expressions(captioner, request)
            for expression, problem in refused.items():
                words = "expression" if task_spec(request.task).text_is_answer else "question"
                _tell_failure(f"{words} {expression!r}", problem)
                records.add_failure(**{words: expression, "error": problem})
            if args.resume:
                inputs = _without_answered(inputs, records, request)
        result = _answer_all(args, request, inputs, captioner, records, drawings)
        return SOME_FAILED if refused else result


def _answer_all(
    args: argparse.Namespace,
    request: Request,
    inputs: Inputs,
    captioner: Captioner | None,
    records: Records,
    drawings: Drawings | None,
) -> int:
    show = print_objects if request.about_objects else print_captions
    people = sys.stderr if is_stdout(args.json) else sys.stdout
    done = failed = 0
    try:
        for image, outcome in _outcomes(captioner, inputs, request, args.batch_size, people):
            problem = None
            if isinstance(outcome, Exception):
                problem = image.problem or first_lines(outcome)
                records.add_failure(image=image.name, error=problem)
            else:
                drawn = []
                try:
                    drawn = drawings.draw(image, outcome, together=request.about_objects) if drawings else []
                except (OSError, ValueError) as error:
                    problem = f"the drawing cannot be written: {first_lines(error)}"
                try:
                    records.add(image, outcome)
                    done += 1
                except (OSError, ValueError) as error:
                    if isinstance(error, OSError) and not records.files_stand_alone:
                        raise
                    problem = f"the record cannot be written: {first_lines(error)}"
                show(image.name, outcome, drawn, people)
            if problem is not None:
                failed += 1
                _tell_failure(image.name, problem)
    except (KeyboardInterrupt, OSError) as stop:
        stop.add_note(_interrupted(stop, done, args, inputs))
        raise
    if failed:
        _tell(f"{failed} of {len(inputs.images)} inputs failed")
    return SOME_FAILED if failed else OK


def _default_model(task: str) -> str:
    """The embedded model that can do the task; which one is told where it is not the usual one."""
    model = default_model(task)
    if model != EMBEDDED:
        head = task_spec(task).head
        assert head is not None  # else any model can
        _tell(f"asking {model}, as {EMBEDDED} has no {head.word}; name another model with --model")
    return model


def _load(source: ModelSource, args: argparse.Namespace, request: Request) -> Captioner:
    """The model, which must be able to do what is asked."""
    from pixelllm_hf.inference import Captioner

    names = ("num_beams", "max_new_tokens")  # only of commands whose answer is written
    generation = {name: getattr(args, name) for name in names if hasattr(args, name)}
    captioner = Captioner.load(source, args.device, args.dtype, generation)
    captioner.require(request.task)
    return captioner


def _with_readable_expressions(captioner: Captioner, request: Request) -> tuple[Request, dict[str, str]]:
    """The question without the expressions of which the model can read nothing, and why not; others go on."""
    from pixelllm_hf.processing.writable_text import UnwritableTextWarning

    unread, told = captioner.unreadable_expressions(request)
    if unread and len(unread) == len(set(request.expressions)):
        raise UsageError(" ".join(unread.values()))
    for what in told:
        _tell(what)
    warnings.simplefilter("ignore", UnwritableTextWarning)  # it would be told of every image again
    return replace(request, expressions=tuple(e for e in request.expressions if e not in unread)), unread


def _without_answered(inputs: Inputs, records: Records, request: Request) -> Inputs:
    """The images that an interrupted run has left to do."""
    assert isinstance(records, PlainLines), "checked before"
    done = records.resume(request)
    left = [image for image in inputs.images if image.name not in done]
    _tell(f"{len(inputs.images) - len(left)} of {len(inputs.images)} images are answered already")
    return replace(inputs, images=left)


def _outcomes(
    captioner: Captioner | None, inputs: Inputs, request: Request, batch_size: int, people: TextIO
) -> Iterator[tuple[ImageInput, Any]]:
    """Each image with its results, or with the exception that it met."""
    from tqdm import tqdm

    with tqdm(total=len(inputs.images), unit="image", disable=not inputs.many, file=sys.stderr) as progress:
        for start in range(0, len(inputs.images), batch_size):
            images = inputs.images[start : start + batch_size]
            usable = [image for image in images if image.problem is None]
            outcomes = dict(zip(usable, outcomes_of_batch(captioner, usable, request), strict=True))
            for image in images:
                with tqdm.external_write_mode(file=people):
                    yield image, outcomes.get(image, ValueError(image.problem))
                progress.update()


def outcomes_of_batch(
    captioner: Captioner | None, images: Sequence[ImageInput | StreamedImage], request: Request
) -> list[Any]:
    """The whole batch at once; if that fails, one by one, so that each image bears its own error."""
    if not images:
        return []
    assert captioner is not None
    try:
        return list(captioner([image.source for image in images], request))
    except Exception as error:  # whatever it is, the other images have done nothing
        if len(images) == 1:
            return [error]
        return [outcomes_of_batch(captioner, [image], request)[0] for image in images]


def _interrupted(stop: BaseException, done: int, args: argparse.Namespace, inputs: Inputs) -> str:
    how = "interrupted" if type(stop) is KeyboardInterrupt else f"interrupted ({first_lines(stop)})"
    where = ""
    if args.json is not None and not is_stdout(args.json):
        where = f"; their answers are in {args.json}"
        if args.format == "plain":
            where += ", and the same command with --resume goes on"
    return f"{how}, {done} of {len(inputs.images)} images done{where}"


@contextmanager
def _told_warnings() -> Iterator[None]:
    """What answers lack is said in the words of the command, each time."""
    with warnings.catch_warnings():
        plain = warnings.showwarning

        def show(
            message: Warning | str,
            category: type[Warning],
            filename: str,
            lineno: int,
            file: TextIO | None = None,
            line: str | None = None,
        ) -> None:
            if issubclass(category, PartialAnswerWarning):
                _tell(str(message))
            else:
                plain(message, category, filename, lineno, file, line)

        warnings.showwarning = show
        warnings.simplefilter("always", PartialAnswerWarning)
        yield


def _tell(what: str) -> None:
    print(f"pixelllm: {what}", file=sys.stderr)


def _tell_failure(name: str, problem: str) -> None:
    _tell(problem if name in problem else f"{name}: {problem}")
