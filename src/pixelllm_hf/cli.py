"""The command `pixelllm`.

pixelllm caption photo.jpg --draw out.png
pixelllm caption photos/ --model org/pixelllm --box 10,20,200,180 --json out.jsonl

Exit codes: 0 all well, 1 some inputs failed (the others are done), 2 wrong usage.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from . import __version__, default_checkpoint
from .files import atomic_path, atomic_text

if TYPE_CHECKING:
    from .processing.grounded_results import GroundedCaption

OK, SOME_FAILED, WRONG_USAGE = 0, 1, 2
EMBEDDED = "tiny"
PICTURE_SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
DTYPES = ("auto", "float32", "bfloat16", "float16")
Box = tuple[float, float, float, float]


class UsageError(ValueError):
    """The command cannot be carried out as it was given."""


@dataclass(frozen=True)
class Command:
    """A subcommand: one line of help, its arguments, and what it does with them (returns the exit code)."""

    help: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    # Threads that wait by spinning bring a machine with other work to a crawl; read when torch is first imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    parser = argparse.ArgumentParser(prog="pixelllm", description="Captions with a pixel location for every word.")
    parser.add_argument("--version", action="version", version=f"pixelllm {__version__}")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="command")
    for name, command in COMMANDS.items():
        subparser = subparsers.add_parser(name, help=command.help, description=command.help)
        command.add_arguments(subparser)
    try:
        args = parser.parse_args(arguments)
    except SystemExit as stop:  # argparse has printed help or the mistake
        return stop.code if isinstance(stop.code, int) else WRONG_USAGE
    try:
        return COMMANDS[args.command].run(args)
    except UsageError as error:
        print(f"pixelllm: {error}", file=sys.stderr)
        return WRONG_USAGE
    except KeyboardInterrupt:
        print("pixelllm: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output has gone, e.g. `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # so that flushing at exit does not complain
        return SOME_FAILED
    except OSError as error:  # a full disk while the records are written
        print(f"pixelllm: {_first_lines(error)}", file=sys.stderr)
        return SOME_FAILED


# --- inputs -----------------------------------------------------------------------------------------------------


def parse_box(text: str) -> Box:
    """Four numbers with commas, in pixels of the original picture.

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


def positive(text: str) -> int:
    """A whole number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, but it is {text!r}.")
    return int(text)


@dataclass
class Inputs:
    """The pictures to work on, in order. `many`: a folder or several files; `problems`: arguments without any."""

    files: list[Path] = field(default_factory=list)
    many: bool = False
    problems: dict[str, str] = field(default_factory=dict)


def find_pictures(arguments: Iterable[str]) -> Inputs:
    """Files as given; of a folder the files that look like pictures, sorted by name."""
    found = Inputs()
    for argument in arguments:
        path = Path(argument)
        if not path.is_dir():
            found.files.append(path)
            continue
        found.many = True
        try:
            inside = sorted(f for f in path.iterdir() if f.suffix.lower() in PICTURE_SUFFIXES and f.is_file())
        except OSError as error:
            found.problems[argument] = f"the folder cannot be read ({error})."
            continue
        if not inside:
            found.problems[argument] = f"the folder has no pictures ({', '.join(sorted(PICTURE_SUFFIXES))})."
        found.files += inside
    found.files = list(dict.fromkeys(found.files))
    found.many |= len(found.files) > 1
    return found


# --- model ------------------------------------------------------------------------------------------------------


@dataclass
class Captioner:
    """A model with its processor: pictures in, results out."""

    model: Any
    processor: Any
    generation: dict[str, Any]

    @classmethod
    def load(cls, name: str, device: str, dtype: str, generation: dict[str, Any]) -> Captioner:
        """From a folder, a hub id, or the embedded model. Mistakes are `UsageError`s."""
        import torch
        from safetensors import SafetensorError
        from transformers.utils import logging

        from pixelllm_hf import PixelLLMForGroundedGeneration, PixelLLMProcessor

        logging.disable_progress_bar()
        logging.set_verbosity_error()  # remarks for programmers, at every call of generate()
        chosen = _device(device)
        # half precision is slow on a CPU and gains nothing there
        wanted = "float32" if dtype == "auto" and chosen.type == "cpu" else dtype
        try:
            source = default_checkpoint() if name == EMBEDDED and not Path(name).exists() else name
            processor = PixelLLMProcessor.from_pretrained(source)
            model, loaded = PixelLLMForGroundedGeneration.from_pretrained(
                source,
                dtype=wanted if wanted == "auto" else getattr(torch, wanted),
                output_loading_info=True,
            )
        except (OSError, ValueError, TypeError, RuntimeError, KeyError, SafetensorError) as error:
            where = _damaged_file(Path(name)) if isinstance(error, SafetensorError) else None
            named = f"{where} is damaged, copy it again: " if where else ""
            raise UsageError(f"the model {name!r} cannot be loaded: {named}{_first_lines(error)}") from error
        if loaded["missing_keys"]:
            missing = sorted(loaded["missing_keys"])
            raise UsageError(
                f"the model {name!r} lacks {len(missing)} weights, the first is {missing[0]}. "
                "Is every file of the checkpoint there?"
            )
        return cls(model.to(chosen).eval(), processor, generation)

    def __call__(
        self, images: list[Any], boxes: Sequence[Box], text: str | None, task: str
    ) -> list[list[GroundedCaption]]:
        """Per image the results of its prompts (the whole image, or every box)."""
        import torch

        per_image = [[list(box) for box in boxes] for _ in images] if boxes else None
        inputs = self.processor(images=images, boxes=per_image, text=text, task=task, return_tensors="pt")
        on_device = {name: value.to(self.model.device) for name, value in inputs.items()}
        with torch.inference_mode():
            output = self.model.generate(**on_device, **self.generation)
        return self.processor.post_process_grounded_generation(output, inputs)


def _device(name: str) -> Any:
    import torch

    if name == "auto":
        return torch.accelerator.current_accelerator() or torch.device("cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
        return device
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"the device {name!r} cannot be used: {_first_lines(error)}") from error


def _damaged_file(folder: Path) -> Path | None:
    """The first weight file that cannot be opened; the library's own message does not name it."""
    from safetensors import SafetensorError, safe_open

    for file in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(file, framework="np"):
                pass
        except SafetensorError:
            return file
    return None


def _first_lines(error: BaseException) -> str:
    """The message without the pages that some libraries add."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 600 else text[:600] + " …"


# --- caption ----------------------------------------------------------------------------------------------------


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """What every command with a model takes."""
    parser.add_argument("images", nargs="+", metavar="image", help="picture file or folder of pictures")
    parser.add_argument("--model", default=EMBEDDED, help="folder or hub id of a model (default: the embedded one)")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write one JSON record a line")
    parser.add_argument(
        "--draw", metavar="PATH", type=Path, help="write the drawing: a file, or a folder when there are several"
    )
    parser.add_argument("--num-beams", type=positive, default=1, help="beam search with so many beams (default: 1)")
    parser.add_argument("--max-new-tokens", type=positive, default=96, help="longest answer (default: 96)")
    parser.add_argument("--batch-size", type=positive, default=8, help="pictures at a time (default: 8)")
    parser.add_argument("--device", default="auto", help="e.g. cpu, cuda:0, mps (default: the accelerator if any)")
    parser.add_argument("--dtype", choices=DTYPES, default="auto", help="of the model's weights (default: auto)")


def add_caption_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `pixelllm caption`."""
    add_model_arguments(parser)
    parser.add_argument(
        "--box",
        metavar="x0,y0,x1,y1",
        dest="boxes",
        action="append",
        type=parse_box,
        default=[],
        help="describe this place, in pixels of the picture; may be repeated (default: the whole picture)",
    )
    parser.add_argument("--prompt", help="what to say to the model instead of the task's own words")


def caption(args: argparse.Namespace) -> int:
    """Describe pictures, or places in them, with a location for every word."""
    return answer(args, task="region" if args.boxes else "caption")


def answer(args: argparse.Namespace, *, task: str) -> int:
    """Run a task over all pictures: print, write records, draw. A picture that fails is reported and skipped."""
    inputs = find_pictures(args.images)
    drawings = Drawings.plan(args.draw, inputs.files)
    _check_writable(args.json)
    failed = dict(inputs.problems)
    with ExitStack() as stack:
        records = stack.enter_context(atomic_text(args.json)) if args.json else None
        for argument, problem in inputs.problems.items():
            _report(argument, problem, records)
        captioner = None
        if inputs.files:
            generation = {"num_beams": args.num_beams, "max_new_tokens": args.max_new_tokens}
            captioner = Captioner.load(args.model, args.device, args.dtype, generation)
        for path, outcome in _outcomes(captioner, inputs, args, task):
            if isinstance(outcome, Exception):
                failed[str(path)] = _first_lines(outcome)
                _report(str(path), failed[str(path)], records)
                continue
            try:
                shown = [str(drawings.draw(path, result)) for result in outcome] if drawings else []
            except OSError as error:
                failed[str(path)] = f"the drawing cannot be written: {_first_lines(error)}"
                _report(str(path), failed[str(path)], None)
                shown = []
            _print(path, outcome, shown)
            if records:
                for result in outcome:
                    _write_record(records, {"image": str(path), **result.to_dict()})
    if failed:
        total = len(inputs.files) + len(inputs.problems)
        print(f"pixelllm: {len(failed)} of {total} inputs failed", file=sys.stderr)
    return SOME_FAILED if failed else OK


def _outcomes(
    captioner: Captioner | None, inputs: Inputs, args: argparse.Namespace, task: str
) -> Iterator[tuple[Path, Any]]:
    """Each picture with its results, or with the exception that it met."""
    from tqdm import tqdm

    with tqdm(total=len(inputs.files), unit="picture", disable=not inputs.many, file=sys.stderr) as progress:
        for start in range(0, len(inputs.files), args.batch_size):
            paths = inputs.files[start : start + args.batch_size]
            for path, outcome in zip(paths, _outcomes_of_batch(captioner, paths, args, task), strict=True):
                with tqdm.external_write_mode(file=sys.stdout):
                    yield path, outcome
                progress.update()


def _outcomes_of_batch(
    captioner: Captioner | None, paths: Sequence[Path], args: argparse.Namespace, task: str
) -> list[Any]:
    """The whole batch at once; if that fails, one by one, so that each picture bears its own error."""
    assert captioner is not None
    try:
        return list(captioner(list(paths), args.boxes, args.prompt, task))
    except (OSError, ValueError, TypeError, RuntimeError, MemoryError) as error:
        if len(paths) == 1:
            return [error]
        return [_outcomes_of_batch(captioner, [path], args, task)[0] for path in paths]


# --- outputs ----------------------------------------------------------------------------------------------------


@dataclass
class Drawings:
    """Where drawings go: one file, or a folder in which they are called after their pictures."""

    path: Path
    is_folder: bool
    taken: set[Path]  # resolved: the pictures themselves and what has been drawn
    drawn: int = 0

    @classmethod
    def plan(cls, path: Path | None, pictures: Sequence[Path]) -> Drawings | None:
        """A path without a suffix is a folder. A drawing never takes the place of one of the pictures."""
        if path is None:
            return None
        is_folder = path.is_dir() or not path.suffix
        if not is_folder and path.suffix.lower() not in PICTURE_SUFFIXES:
            raise UsageError(
                f"--draw needs a file ending in one of {', '.join(sorted(PICTURE_SUFFIXES))} or a folder, "
                f"but it is {str(path)!r}."
            )
        folder = path if is_folder else path.parent
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"--draw: the folder {folder} cannot be made ({error}).") from error
        sources = {picture.resolve() for picture in pictures}
        if path.resolve() in sources:
            raise UsageError(f"--draw {path} is one of the pictures to describe; give the drawing another name.")
        return cls(path, is_folder, sources)

    def draw(self, picture: Path, result: GroundedCaption) -> Path:
        """Write the drawing of one result; returns its place."""
        drawing = result.draw(picture)
        target = self._free_name(picture)
        self.taken.add(target.resolve())
        self.drawn += 1
        with atomic_path(target) as temporary:
            drawing.save(temporary)
        return target

    def _free_name(self, picture: Path) -> Path:
        """The first drawing of `--draw out.png` is out.png, later ones are out-photo.png; then with numbers."""
        if self.is_folder:
            stem, suffix, folder = picture.stem, ".png", self.path
        elif not self.drawn:
            return self.path
        else:
            stem, suffix, folder = f"{self.path.stem}-{picture.stem}", self.path.suffix, self.path.parent
        target, number = folder / f"{stem}{suffix}", 2
        while target.resolve() in self.taken:
            target, number = folder / f"{stem}-{number}{suffix}", number + 1
        return target


def _check_writable(path: Path | None) -> None:
    if path is None:
        return
    if path.is_dir() or not path.parent.is_dir():
        raise UsageError(f"--json needs a file in an existing folder, but it is {str(path)!r}.")


def _print(path: Path, results: Sequence[GroundedCaption], drawings: Sequence[str]) -> None:
    """The captions, and a line for each word with its place in pixels of the picture."""
    for i, result in enumerate(results):
        where = f" {_numbers(result.prompt_box)}" if result.prompt_box else ""
        print(f"{path}{where}\n  {result.text}")
        width = max((len(word.text) for word in result.words), default=0)
        for word in result.words:
            if word.point is None or word.box is None:
                print(f"    {word.text}")
            else:
                print(f"    {word.text:<{width}}  point {_numbers(word.point)}  box {_numbers(word.box)}")
        if drawings:
            print(f"  drawn to {drawings[i]}")
    sys.stdout.flush()


def _numbers(values: Iterable[float]) -> str:
    return "(" + ", ".join(f"{value:6.1f}" for value in values) + ")"


def _report(name: str, problem: str, records: TextIO | None) -> None:
    """Tell of a failed input, on the error stream and in the records."""
    print(f"pixelllm: {problem if name in problem else f'{name}: {problem}'}", file=sys.stderr)
    if records:
        _write_record(records, {"image": name, "error": problem})


def _write_record(records: TextIO, record: dict[str, Any]) -> None:
    records.write(json.dumps(record, ensure_ascii=False) + "\n")


# A new task is one line here.
COMMANDS = {
    "caption": Command("describe pictures with a location for every word", add_caption_arguments, caption),
}

if __name__ == "__main__":
    sys.exit(main())
