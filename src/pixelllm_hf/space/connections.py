"""Connections of strangers: what they want is said within seconds, sent without dawdling, read in bounded memory."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import h11
from uvicorn import config as uvicorn_config
from uvicorn.protocols.http.h11_impl import H11Protocol

from .gradio_internals import internal

HEADER_SECONDS = 10.0  # from a connection's begin, or the first byte of its next request, to the end of the header
BODY_SECONDS, BODY_BYTES = 20.0, 64 << 10  # so much of a body comes in every such span, or all that is left of it
CONNECTIONS = 800  # at once, visitors who watch an answer included; more are told that the service is unavailable


class BoundedProtocol(H11Protocol):
    """Uvicorn's HTTP/1.1 with limits that uvicorn leaves to a proxy. h11 bounds a header's size, httptools does not."""

    header_seconds, body_seconds, body_bytes = HEADER_SECONDS, BODY_SECONDS, BODY_BYTES

    def __init__(self, *args: Any, **options: Any):
        super().__init__(*args, **options)
        internal(self, "limit_concurrency")
        internal(self, "ws_protocol_class")
        self.limit_concurrency = CONNECTIONS
        self.ws_protocol_class = None  # nothing here is a websocket, and one would leave these limits behind
        self._received = 0  # bytes of the present span
        self._waiting_for: Any = None  # the state of h11 that the timer bounds
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        self._received += len(data)
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop()
        super().connection_lost(exc)

    def _watch(self) -> None:
        """A timer for each header and each body. What arrives does not move it, so that drops do not keep it away."""
        state = self.conn.their_state
        if state is self._waiting_for and self._timer is not None:
            return
        self._stop()
        self._waiting_for = state
        if state is h11.IDLE:
            self._timer = self.loop.call_later(self.header_seconds, self.transport.abort)
        elif state is h11.SEND_BODY:
            self._received = 0
            self._timer = self.loop.call_later(self.body_seconds, self._end_of_span)

    def _end_of_span(self) -> None:
        waits_for_us = self.flow.read_paused  # nobody here takes what has come: not the visitor's fault
        answered = self.cycle is not None and self.cycle.response_complete
        if answered or (self._received < self.body_bytes and not waits_for_us):
            self.transport.abort()
            return
        self._received = 0
        self._timer = self.loop.call_later(self.body_seconds, self._end_of_span)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


@contextmanager
def bounded_connections() -> Iterator[None]:
    """Servers that start within take connections so; gradio has no option for it."""
    protocols = internal(uvicorn_config, "HTTP_PROTOCOLS")
    before = protocols["auto"]
    protocols["auto"] = f"{BoundedProtocol.__module__}:{BoundedProtocol.__qualname__}"
    try:
        yield
    finally:
        protocols["auto"] = before


__all__ = ["BODY_BYTES", "BODY_SECONDS", "CONNECTIONS", "HEADER_SECONDS", "BoundedProtocol", "bounded_connections"]
