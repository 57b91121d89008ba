"""Answers for people to read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from pixelllm_hf.processing.grounded_results import GroundedCaption


def print_captions(name: str, results: Sequence[GroundedCaption], drawings: Sequence[Path], file: TextIO) -> None:
    """The captions, and a line for each word with its location, if it has one, in pixels of the image."""
    lines: list[str] = []
    for i, result in enumerate(results):
        lines += [f"{name}{_asked(result)}", f"  {result.text}"]
        lines += [f"    {line}" for line in _targets(result)]
        words = () if result.targets else result.placed_words  # of the words, those that point have been listed
        width = max((len(word.text) for word in words), default=0)
        for word in words:
            if word.point is None or word.box is None:
                lines.append(f"    {word.text}")
            else:
                off = "" if word.spread is None else f"  ± {_numbers(word.spread)}"
                lines.append(f"    {word.text:<{width}}  point {_numbers(word.point)}  box {_numbers(word.box)}{off}")
        if drawings:
            lines.append(f"  drawn to {drawings[i]}")
    _print(lines, file)


def print_objects(name: str, results: Sequence[GroundedCaption], drawings: Sequence[Path], file: TextIO) -> None:
    """A line for each object: its box in pixels of the image, how sure that is, and what it is called."""
    lines = [name]
    for result in results:
        if not result.targets:
            lines.append(f"  no location  {result.text}")
        lines += [f"  {line}" for line in _targets(result)]
    if not results:
        lines.append("  nothing found")
    lines += [f"  drawn to {drawing}" for drawing in drawings]
    _print(lines, file)


def _targets(result: GroundedCaption) -> Iterator[str]:
    """Where each target is, how sure that is, and the words that name it."""
    for target in result.targets:
        facts = [] if target.box is None else [f"box {_numbers(target.box)}"]
        if target.box_score is not None:
            facts.append(f"score {target.box_score:.2f}")
        if target.mask is not None:
            facts.append(f"mask {int(target.mask.sum())} pixels")
        if target.mask_score is not None:
            facts.append(f"fit {target.mask_score:.2f}")
        if target.box is None and target.mask is None:
            facts.insert(0, "no location")
        yield f"{'  '.join(facts)}  {result.text[target.start : target.end]}".rstrip()


def _print(lines: Sequence[str], file: TextIO) -> None:
    print("\n".join(lines), file=file, flush=True)


def _asked(result: GroundedCaption) -> str:
    """The location that was asked about, if it was not the whole image."""
    if result.prompt_box is not None:
        return f" {_numbers(result.prompt_box)}"
    return "".join(f" {_numbers((x, y))}" for x, y, _ in result.prompt_points or ())


def _numbers(values: Iterable[float]) -> str:
    return "(" + ", ".join(f"{value:6.1f}" for value in values) + ")"
