"""The fuzzers' harness for the tests, which are imported without packages."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def fuzz() -> Any:
    """The module `harness`."""
    if not hasattr(os, "fork"):
        pytest.skip("the fuzzers need os.fork, so that an input that hangs can be ended")
    name = "pixelllm_tests_fuzz_harness"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name("harness.py"))
        assert spec is not None and spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


@pytest.fixture
def fuzz_inputs(request: pytest.FixtureRequest) -> int:
    """How many inputs a class tries: --fuzz-inputs."""
    return request.config.getoption("--fuzz-inputs")
