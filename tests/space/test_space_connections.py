"""Connections that say nothing, or too little, are closed; nobody else notices."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

uvicorn = pytest.importorskip("uvicorn", reason="needs uvicorn: pip install pixelllm-hf[demo]")

PATIENCE = 60.0  # seconds until a connection counts as open for ever


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Takes the whole body and says how long it was; /refused answers without it."""
    received, more = 0, scope["path"] != "/refused"
    while more:
        message = await receive()
        if message["type"] != "http.request":
            return
        received, more = received + len(message["body"]), message["more_body"]
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"8")]})
    await send({"type": "http.response.body", "body": b"%8d" % received})


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """A server with a quarter of a second for headers and half of one for each kilobyte of a body."""
    from pixelllm_hf.space.connections import BoundedProtocol, bounded_connections

    monkeypatch.setattr(BoundedProtocol, "header_seconds", 0.25)
    monkeypatch.setattr(BoundedProtocol, "body_seconds", 0.5)
    monkeypatch.setattr(BoundedProtocol, "body_bytes", 1000)
    server = uvicorn.Server(uvicorn.Config(app, port=0, lifespan="off", log_level="error", timeout_keep_alive=60))
    thread = threading.Thread(target=server.run, daemon=True)
    with bounded_connections():
        thread.start()
        while not server.started:
            time.sleep(0.01)
    yield server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = True
    thread.join(timeout=PATIENCE)


def said(connection: socket.socket) -> bytes:
    """All that the server says before it closes; `TimeoutError` if it does not close."""
    connection.settimeout(PATIENCE)
    answer = b""
    try:
        while piece := connection.recv(4096):
            answer += piece
    except ConnectionResetError:
        pass
    return answer


@pytest.mark.parametrize("beginning", [b"", b"GET / HTTP/1.1\r\n", b"GET / HTTP/1.1\r\nHost: x\r\nX-Long: aaaa"])
def test_a_header_that_never_ends_is_not_waited_for(port, beginning):
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(beginning)
        assert said(connection) == b""


def test_drops_of_a_header_do_not_keep_the_connection(port):
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.settimeout(PATIENCE)
        connection.sendall(b"GET / HTTP/1.1\r\nX: ")
        deadline = time.monotonic() + PATIENCE
        with pytest.raises(OSError):  # noqa: PT011 - a pipe that is broken, or a connection that is reset
            while time.monotonic() < deadline:
                connection.sendall(b"a")
                time.sleep(0.05)


def test_the_header_of_a_second_request_is_not_waited_for_either(port):
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        connection.settimeout(PATIENCE)
        answer = b""
        while not answer.endswith(b"       0"):
            answer += connection.recv(4096)
        connection.sendall(b"G")
        assert said(connection) == b""


def test_a_header_without_bounds_is_refused(port):
    with socket.create_connection(("127.0.0.1", port)) as connection:
        try:
            connection.sendall(b"GET / HTTP/1.1\r\nX: " + b"a" * (1 << 20))
        except OSError:
            return  # closed while it was sent
        assert said(connection)[:12] in (b"HTTP/1.1 400", b"HTTP/1.1 431", b"")


@pytest.mark.parametrize("path", ["/", "/refused"])
def test_a_body_that_does_not_come_is_not_waited_for(port, path):
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\nab".encode())
        answer = said(connection)
        assert answer.startswith(b"HTTP/1.1 200") == (path == "/refused")


def test_a_slow_body_that_comes_steadily_is_taken(port):
    def steadily() -> Iterator[bytes]:
        for _ in range(6):
            yield b"x" * 2000
            time.sleep(0.2)  # longer in all than one span

    assert httpx.post(f"http://127.0.0.1:{port}/", content=steadily(), timeout=PATIENCE).text.strip() == "12000"


def test_the_connection_of_whoever_asks_properly_stays_open(port):
    with httpx.Client() as client:
        for _ in range(2):
            assert client.get(f"http://127.0.0.1:{port}/", timeout=PATIENCE).status_code == 200
            time.sleep(0.6)


def test_beyond_the_most_connections_a_request_is_told_to_come_later(port, monkeypatch):
    monkeypatch.setattr("pixelllm_hf.space.connections.CONNECTIONS", 1)
    assert httpx.get(f"http://127.0.0.1:{port}/", timeout=PATIENCE).status_code == 503


def test_the_demo_serves_with_these_limits_and_other_servers_do_not(demo):
    from uvicorn.config import HTTP_PROTOCOLS

    from pixelllm_hf.space.connections import BoundedProtocol

    assert demo.page.server.config.http_protocol_class is BoundedProtocol
    assert "pixelllm" not in HTTP_PROTOCOLS["auto"]
