"""A crowd visits the demo: is everybody answered, or told that the queue is full? Exit code 1 if anybody is lost.

python scripts/load_test_space.py --clients 50 --seconds 60
python scripts/load_test_space.py --clients 4 --seconds 5 --max-queue 2   # a quick look
"""

from __future__ import annotations

import argparse
import collections
import os
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import httpx

from pixelllm_hf.inference import EMBEDDED
from pixelllm_hf.space.crowd import ANSWERED, LOST, Crowd, Visit, overtaken, percentile
from pixelllm_hf.space.launching import MAX_QUEUE

ROOT = Path(__file__).parents[1]
SCENE = ROOT / "demo" / "examples" / "scene.jpg"
START_WITHIN = 600.0  # seconds


def main(args: argparse.Namespace) -> int:
    """Start the demo, visit it, print what happened; returns the exit code."""
    port = free_port()
    command = [sys.executable, "-m", "pixelllm_hf.cli", "demo", "--model", args.model, "--port", str(port)]
    command += ["--max-queue", str(args.max_queue), "--device", args.device]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])}
    with tempfile.TemporaryFile() as log:
        server = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)
        try:
            url = f"http://127.0.0.1:{port}"
            if not wait_for(server, url):
                log.seek(0)
                print(log.read().decode(errors="replace"))
                print("the demo did not start")
                return 1
            before = memory_mb(server.pid, "VmRSS")
            crowd = Crowd(url, SCENE.read_bytes())
            began = time.monotonic()
            with Watching(server.pid) as watching:
                visits = crowd.visit(args.clients, seconds=args.seconds)
            took = time.monotonic() - began
            alive = server.poll() is None
        finally:
            server.terminate()
            server.wait(timeout=60)
    report(visits, took, before, watching.peak)
    if not alive:
        print("the demo has ended by itself")
    return 0 if alive and not any(visit.outcome == LOST for visit in visits) else 1


def report(visits: list[Visit], took: float, before: float, peak: float) -> None:
    """One fact a line."""
    counts = collections.Counter(visit.outcome for visit in visits)
    answered = [visit for visit in visits if visit.outcome == ANSWERED]
    waits = [visit.waited for visit in answered]
    print(f"seconds            {took:.1f}")
    print(f"answered           {counts['answered']}  ({counts['answered'] / max(took, 1e-9):.2f} a second)")
    print(f"refused            {counts['refused']}  (told that the queue is full)")
    print(f"lost               {counts['lost']}")
    print("wait, seconds      " + "  ".join(f"p{share} {percentile(waits, share / 100):.2f}" for share in (50, 90, 99)))
    print(f"told their place   {sum(visit.place is not None for visit in answered)} of {len(answered)}")
    print(f"overtaken by       {overtaken(visits)} at most")
    print(f"server memory, MB  {before:.0f} before, {peak:.0f} at most")
    for why, number in collections.Counter(visit.why for visit in visits if visit.outcome == LOST).most_common(5):
        print(f"  lost {number}: {why}")


class Watching:
    """Looks every half second how much memory a process has; `peak` in MB."""

    def __init__(self, pid: int):
        self.pid = pid
        self.peak = 0.0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Watching:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._done.wait(0.5):
            self.peak = max(self.peak, memory_mb(self.pid, "VmRSS"))


def memory_mb(pid: int, entry: str) -> float:
    """An entry of the process's status; 0 where the system does not say."""
    try:
        found = re.search(rf"^{entry}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.M)
    except OSError:
        found = None
    return int(found[1]) / 1024 if found else 0.0


def wait_for(server: subprocess.Popen[bytes], url: str) -> bool:
    """Whether the server answers before it ends or its time is up."""
    deadline = time.monotonic() + START_WITHIN
    while server.poll() is None and time.monotonic() < deadline:
        try:
            httpx.get(f"{url}/config", timeout=10).raise_for_status()
            return True
        except httpx.HTTPError:
            time.sleep(0.5)
    return False


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=50, help="visitors at once")
    parser.add_argument("--seconds", type=float, default=60.0, help="for so long they keep asking")
    parser.add_argument("--model", default=EMBEDDED, help="folder or hub id; tiny is the embedded one")
    parser.add_argument("--max-queue", type=int, default=MAX_QUEUE, help="requests that may wait")
    parser.add_argument("--device", default="auto", help="e.g. cpu, cuda:0")
    sys.exit(main(parser.parse_args()))
