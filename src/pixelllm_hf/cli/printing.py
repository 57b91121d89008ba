"""Answers for people to read."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pixelllm_hf.processing.grounded_results import GroundedCaption


def print_captions(path: Path, results: Sequence[GroundedCaption], drawings: Sequence[Path]) -> None:
    """The captions, and a line for each word with its place in pixels of the picture."""
    for i, result in enumerate(results):
        print(f"{path}{_asked(result)}\n  {result.text}")
        width = max((len(word.text) for word in result.words), default=0)
        for word in result.words:
            if word.point is None or word.box is None:
                print(f"    {word.text}")
            else:
                print(f"    {word.text:<{width}}  point {_numbers(word.point)}  box {_numbers(word.box)}")
        if drawings:
            print(f"  drawn to {drawings[i]}")
    sys.stdout.flush()


def print_objects(path: Path, results: Sequence[GroundedCaption], drawings: Sequence[Path]) -> None:
    """A line for each object: its box in pixels of the picture, how sure that is, and what it is called."""
    print(path)
    for result in results:
        facts = ["no place"] if result.box is None else [f"box {_numbers(result.box)}"]
        if result.box_score is not None:
            facts.append(f"score {result.box_score:.2f}")
        if result.mask is not None:
            facts.append(f"mask {int(result.mask.sum())} pixels")
        if result.mask_score is not None:
            facts.append(f"fit {result.mask_score:.2f}")
        print(f"  {'  '.join(facts)}  {result.text}")
    if not results:
        print("  nothing found")
    for drawing in drawings:
        print(f"  drawn to {drawing}")
    sys.stdout.flush()


def _asked(result: GroundedCaption) -> str:
    """The place that was asked about, if it was not the whole picture."""
    if result.prompt_box is not None:
        return f" {_numbers(result.prompt_box)}"
    return "".join(f" {_numbers((x, y))}" for x, y, _ in result.prompt_points or ())


def _numbers(values: Iterable[float]) -> str:
    return "(" + ", ".join(f"{value:6.1f}" for value in values) + ")"
