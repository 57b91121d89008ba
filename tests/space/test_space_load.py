"""A small crowd at the running demo; scripts/load_test_space.py brings a large one."""

from __future__ import annotations

import gc
import importlib.util
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .running_demo import EXAMPLES, LIMITS, SCENE

CLIENTS, REQUESTS, QUEUE = 12, 2, 6
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def narrow_demo(demo, small_checkpoint: Path) -> Iterator[Any]:
    """A demo in whose queue few can wait."""
    from pixelllm_hf.space.launching import start_demo

    running = start_demo(
        [str(small_checkpoint)], limits=LIMITS, examples=EXAMPLES, device="cpu", host="127.0.0.1", quiet=True,
        max_queue=QUEUE,
    )  # fmt: skip
    yield running
    running.close()


@pytest.fixture(scope="module")
def load_test() -> Any:
    """scripts/load_test_space.py as a module."""
    spec = importlib.util.spec_from_file_location("load_test_space", ROOT / "scripts" / "load_test_space.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


def memory_mb() -> float:
    found = re.search(r"^VmRSS:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.M)
    assert found is not None
    return int(found[1]) / 1024


def test_in_a_crowd_everybody_is_answered_or_told_that_the_queue_is_full(narrow_demo, load_test):
    visits = load_test.LoadTest(narrow_demo.url, SCENE.read_bytes()).visit(CLIENTS, requests=REQUESTS)
    counts = Counter(visit.outcome for visit in visits)
    assert counts[load_test.LOST] == 0, [visit.why for visit in visits if visit.outcome == load_test.LOST]
    assert counts[load_test.ANSWERED] == CLIENTS * REQUESTS
    assert counts[load_test.REFUSED] > 0, "more came at once than the queue holds"
    answered = [visit for visit in visits if visit.outcome == load_test.ANSWERED]
    assert all(visit.place is not None and visit.place <= QUEUE for visit in answered), "told their place at once"
    assert load_test.overtaken(visits) <= 1, "turns are kept; one may seem to overtake when its message arrives late"


def test_a_second_crowd_needs_hardly_more_memory_than_the_first(narrow_demo, uploads, load_test):
    if not Path("/proc/self/status").exists():
        pytest.skip("needs /proc to look at the memory")
    crowd = load_test.LoadTest(narrow_demo.url, SCENE.read_bytes())
    crowd.visit(CLIENTS, requests=1)
    gc.collect()
    before = memory_mb()
    crowd.visit(CLIENTS, requests=2)
    gc.collect()
    assert memory_mb() - before < 64
    assert len(list(uploads.glob("*/image.jpg"))) == 1, "the same image is kept once"


def test_overtaking_is_noticed(load_test):
    kept = [load_test.RequestRecord(load_test.ANSWERED, joined=t, queued=t + 0.5, started=10.0 + t) for t in range(5)]
    assert load_test.overtaken(kept) == 0
    assert (
        load_test.overtaken([*kept, load_test.RequestRecord(load_test.ANSWERED, joined=0.1, queued=1.5, started=99.0)])
        == 3
    )


def test_a_request_that_is_not_answered_counts_as_lost(narrow_demo, load_test):
    visits = load_test.LoadTest(narrow_demo.url, b"not an image").visit(2, requests=1)
    assert [visit.outcome for visit in visits] == [load_test.LOST, load_test.LOST]
    assert all("not an image" in visit.why for visit in visits)


def test_the_load_test_starts_a_demo_of_its_own_and_reports(small_checkpoint: Path):
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "load_test_space.py", "--clients", "3", "--seconds", "1",
         "--max-queue", "2", "--model", str(small_checkpoint), "--device", "cpu"],
        capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^answered +[1-9]", done.stdout, re.M)
    assert re.search(r"^lost +0$", done.stdout, re.M)
