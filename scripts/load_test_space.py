"""A crowd visits the demo: is everybody answered, or told that the queue is full? Exit code 1 if anybody is lost.

python scripts/load_test_space.py --clients 50 --seconds 60
python scripts/load_test_space.py --clients 4 --seconds 5 --max-queue 2   # a quick look
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from pixelllm_hf.inference import EMBEDDED
from pixelllm_hf.space.launching import MAX_QUEUE

ROOT = Path(__file__).parents[1]
SCENE = ROOT / "demo" / "examples" / "scene.jpg"
START_WITHIN = 600.0  # seconds
ANSWERED, REFUSED, LOST = "answered", "refused", "lost"
_PATIENCE = 300.0  # seconds without a sign of life, gradio's heartbeats included, until a request counts as lost
_PAUSE = 0.5  # seconds until a visitor who was refused tries again


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
            crowd = LoadTest(url, SCENE.read_bytes())
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


def report(visits: list[RequestRecord], took: float, before: float, peak: float) -> None:
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
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> Watching:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _sample(self) -> None:
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


@dataclass(frozen=True)
class RequestRecord:
    """One request. Times are seconds of one clock: sent, in the queue, begun, done; place: in the queue, as was told.

    outcome: answered; refused: the queue was full, and it was said so; lost: anything else, with the reason in `why`.
    """

    outcome: str
    joined: float
    queued: float | None = None
    started: float | None = None
    ended: float | None = None
    place: int | None = None
    why: str = ""

    @property
    def waited(self) -> float:
        """Seconds from joining the queue to the answer."""
        return (self.ended or self.joined) - self.joined


class LoadTest:
    """Visitors of a running demo who all ask for captions of one image, as the page and the API do."""

    def __init__(self, url: str, image: bytes, *, endpoint: str = "caption"):
        self.url = url.rstrip("/")
        self.image = image
        with httpx.Client(timeout=60) as client:
            config = client.get(f"{self.url}/config").raise_for_status().json()
        self.function = next(d["id"] for d in config["dependencies"] if d["api_name"] == endpoint)

    def visit(self, clients: int, *, requests: int | None = None, seconds: float | None = None) -> list[RequestRecord]:
        """All visitors at once, each asking again as soon as it is answered: so often, or for so long."""
        begin = time.monotonic()
        visits: list[list[RequestRecord]] = [[] for _ in range(clients)]

        def more(done: list[RequestRecord]) -> bool:
            answered = sum(visit.outcome != REFUSED for visit in done)
            in_time = seconds is None or time.monotonic() - begin < seconds
            return in_time and (requests is None or answered < requests)

        threads = [threading.Thread(target=self._one_visitor, args=(more, done), daemon=True) for done in visits]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return sorted((visit for done in visits for visit in done), key=lambda visit: visit.joined)

    def _one_visitor(self, more: Callable[[list[RequestRecord]], bool], done: list[RequestRecord]) -> None:
        with httpx.Client(timeout=httpx.Timeout(_PATIENCE)) as client:
            while more(done):
                done.append(self._one_request(client))
                if done[-1].outcome != ANSWERED:
                    time.sleep(_PAUSE)

    def _one_request(self, client: httpx.Client) -> RequestRecord:
        joined = time.monotonic()
        try:
            files = {"files": ("image.jpg", self.image)}
            uploaded = client.post(f"{self.url}/gradio_api/upload", files=files).raise_for_status().json()[0]
            session = uuid.uuid4().hex
            joined = time.monotonic()
            reply = client.post(
                f"{self.url}/gradio_api/queue/join",
                json={
                    "data": [{"path": uploaded, "meta": {"_type": "gradio.FileData"}}, 1, ""],
                    "fn_index": self.function,
                    "session_hash": session,
                },
            )
            if reply.status_code == 503 and "full" in reply.text.lower():
                return RequestRecord(REFUSED, joined, ended=time.monotonic())
            reply.raise_for_status()
            return self._wait(client, session, joined)
        except (httpx.HTTPError, ValueError, KeyError) as error:
            return RequestRecord(LOST, joined, ended=time.monotonic(), why=f"{type(error).__name__}: {error}")

    def _wait(self, client: httpx.Client, session: str, joined: float) -> RequestRecord:
        place, started, queued = None, None, time.monotonic()
        with client.stream("GET", f"{self.url}/gradio_api/queue/data", params={"session_hash": session}) as events:
            for line in events.iter_lines():
                message: dict[str, Any] = json.loads(line[5:]) if line.startswith("data:") else {}
                kind = message.get("msg")
                if kind == "estimation" and place is None:
                    place = message["rank"]
                elif kind == "process_starts":
                    started = time.monotonic()
                elif kind == "process_completed":
                    good = bool(message["success"] and message["output"]["data"][0][0]["text"])
                    outcome, why = (ANSWERED, "") if good else (LOST, str(message["output"])[:200])
                    return RequestRecord(outcome, joined, queued, started, time.monotonic(), place, why)
                elif kind == "unexpected_error":
                    return RequestRecord(
                        LOST, joined, queued, started, time.monotonic(), place, str(message.get("message"))
                    )
        return RequestRecord(
            LOST, joined, queued, started, time.monotonic(), place, "the stream ended without an answer"
        )


def overtaken(visits: Sequence[RequestRecord]) -> int:
    """Most of those sent when a request was in the queue already and yet begun before it; 0 if turns are kept."""
    done = [visit for visit in visits if visit.outcome == ANSWERED]
    return max((sum(_overtakes(other, visit) for other in done) for visit in done), default=0)


def _overtakes(other: RequestRecord, visit: RequestRecord) -> bool:
    if None in (other.started, visit.started, visit.queued):
        return False
    return other.joined > visit.queued and other.started < visit.started  # type: ignore[operator]


def percentile(values: Sequence[float], share: float) -> float:
    """The value that this share of the values does not exceed; 0 of none."""
    ranked = sorted(values)
    return ranked[min(len(ranked) - 1, int(share * len(ranked)))] if ranked else 0.0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=50, help="visitors at once")
    parser.add_argument("--seconds", type=float, default=60.0, help="for so long they keep asking")
    parser.add_argument("--model", default=EMBEDDED, help="folder or hub id; or the name of an embedded one")
    parser.add_argument("--max-queue", type=int, default=MAX_QUEUE, help="requests that may wait")
    parser.add_argument("--device", default="auto", help="e.g. cpu, cuda:0")
    sys.exit(main(parser.parse_args()))
