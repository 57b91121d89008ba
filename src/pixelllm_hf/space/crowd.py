"""Many visitors at once, to see whether each is answered or told why not."""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

ANSWERED, REFUSED, LOST = "answered", "refused", "lost"
_PATIENCE = 300.0  # seconds without a sign of life, gradio's heartbeats included, until a request counts as lost
_PAUSE = 0.5  # seconds until a visitor who was refused tries again


@dataclass(frozen=True)
class Visit:
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


class Crowd:
    """Visitors of a running demo who all ask for captions of one picture, as the page and the API do."""

    def __init__(self, url: str, picture: bytes, *, endpoint: str = "caption"):
        self.url = url.rstrip("/")
        self.picture = picture
        with httpx.Client(timeout=60) as client:
            config = client.get(f"{self.url}/config").raise_for_status().json()
        self.function = next(d["id"] for d in config["dependencies"] if d["api_name"] == endpoint)

    def visit(self, clients: int, *, requests: int | None = None, seconds: float | None = None) -> list[Visit]:
        """All visitors at once, each asking again as soon as it is answered: so often, or for so long."""
        begin = time.monotonic()
        visits: list[list[Visit]] = [[] for _ in range(clients)]

        def more(done: list[Visit]) -> bool:
            answered = sum(visit.outcome != REFUSED for visit in done)
            in_time = seconds is None or time.monotonic() - begin < seconds
            return in_time and (requests is None or answered < requests)

        threads = [threading.Thread(target=self._one_visitor, args=(more, done), daemon=True) for done in visits]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return sorted((visit for done in visits for visit in done), key=lambda visit: visit.joined)

    def _one_visitor(self, more: Callable[[list[Visit]], bool], done: list[Visit]) -> None:
        with httpx.Client(timeout=httpx.Timeout(_PATIENCE)) as client:
            while more(done):
                done.append(self._one_request(client))
                if done[-1].outcome != ANSWERED:
                    time.sleep(_PAUSE)

    def _one_request(self, client: httpx.Client) -> Visit:
        joined = time.monotonic()
        try:
            files = {"files": ("picture.jpg", self.picture)}
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
                return Visit(REFUSED, joined, ended=time.monotonic())
            reply.raise_for_status()
            return self._wait(client, session, joined)
        except (httpx.HTTPError, ValueError, KeyError) as error:
            return Visit(LOST, joined, ended=time.monotonic(), why=f"{type(error).__name__}: {error}")

    def _wait(self, client: httpx.Client, session: str, joined: float) -> Visit:
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
                    return Visit(outcome, joined, queued, started, time.monotonic(), place, why)
                elif kind == "unexpected_error":
                    return Visit(LOST, joined, queued, started, time.monotonic(), place, str(message.get("message")))
        return Visit(LOST, joined, queued, started, time.monotonic(), place, "the stream ended without an answer")


def overtaken(visits: Sequence[Visit]) -> int:
    """Most of those sent when a request was in the queue already and yet begun before it; 0 if turns are kept."""
    done = [visit for visit in visits if visit.outcome == ANSWERED]
    return max((sum(_overtakes(other, visit) for other in done) for visit in done), default=0)


def _overtakes(other: Visit, visit: Visit) -> bool:
    if None in (other.started, visit.started, visit.queued):
        return False
    return other.joined > visit.queued and other.started < visit.started  # type: ignore[operator]


def percentile(values: Sequence[float], share: float) -> float:
    """The value that this share of the values does not exceed; 0 of none."""
    ranked = sorted(values)
    return ranked[min(len(ranked) - 1, int(share * len(ranked)))] if ranked else 0.0


__all__ = ["ANSWERED", "LOST", "REFUSED", "Crowd", "Visit", "overtaken", "percentile"]
