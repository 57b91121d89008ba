from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pixelllm_hf.evaluation.meteor_jar import jar_problem
from pixelllm_hf.evaluation.meteor_words import installed_folder
from pixelllm_hf.evaluation.scene_folder import composed_folder


@pytest.fixture(scope="session")
def golden_folder() -> Path:
    return Path(__file__).parents[1] / "golden" / "metrics"


@pytest.fixture(scope="session")
def golden(golden_folder: Path) -> Callable[[str], Any]:
    """name -> values of the official evaluators."""
    return lambda name: json.loads((golden_folder / f"{name}.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def pycocoevalcap() -> None:
    if installed_folder() is None:
        pytest.skip("pycocoevalcap is not installed")


@pytest.fixture(scope="session")
def java() -> None:
    problem = jar_problem()
    if problem is not None:
        pytest.skip(problem)


@pytest.fixture(scope="session")
def scene_folder() -> Iterator[Path]:
    """Eight scenes of series 123, in the official layouts."""
    with composed_folder(8, 123) as path:
        yield path
