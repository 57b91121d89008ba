"""What stands before gradio: bounds for what is sent, and no way through it to other servers."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

MESSAGE_BYTES = 256 << 10  # of a request that brings no image
# Parts of gradio that this demo does not use: they fetch from other servers, start ffmpeg, or write to the disk.
CLOSED = ("/proxy=", "/process_recording", "/deep_link", "/monitoring", "/run-history", "/vibe-")
# Browsers enforce that the page asks no other server for anything. Gradio's page is made by inline scripts, and
# gr.HTML builds its script from text.
CONTENT_POLICY = (
    "default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'; object-src 'none'; base-uri 'self'; form-action 'self'"
)


class _TooLargeError(Exception):
    pass


class RequestLimitMiddleware:
    """ASGI middleware. upload_bytes: of one image; after_upload is called when one has been taken in."""

    def __init__(self, app: Any, *, upload_bytes: int, after_upload: Callable[[], Any]):
        self.app = app
        self.upload_bytes = upload_bytes
        self.after_upload = after_upload

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path = scope["path"]
        if self._is_closed(path):
            await _refuse(send, 403, "this demo does not offer that")
            return
        limit = self._limit(path)
        too_large = f"this is too large; an image may have {self.upload_bytes >> 20} MB"
        if _declared_length(scope) > limit:
            await _refuse(send, 413, too_large)
            return
        received, begun = 0, False

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > limit:
                raise _TooLargeError
            return message

        async def answered(message: Message) -> None:
            nonlocal begun
            if received > limit and not begun:
                return  # what gradio makes of the cut body; the visitor is told below
            if message["type"] == "http.response.start":
                begun = True
                message["headers"] = [*message.get("headers", []), *_HEADERS]
            await send(message)

        try:
            with contextlib.suppress(_TooLargeError):
                await self.app(scope, counted, answered)
            if received > limit and not begun:
                await _refuse(send, 413, too_large)
        finally:
            if path.endswith("/upload"):
                self.after_upload()

    def _limit(self, path: str) -> int:
        if path.rstrip("/").endswith("/upload"):
            return self.upload_bytes + (64 << 10)  # what is around the file
        if "/mcp" in path:  # images come as text there
            return self.upload_bytes * 4 // 3 + MESSAGE_BYTES
        return MESSAGE_BYTES

    @staticmethod
    def _is_closed(path: str) -> bool:
        named = path.partition("/file=")[2].lower()
        return named.startswith(("http:", "https:")) or any(part in path for part in CLOSED)


_HEADERS = [
    (b"content-security-policy", CONTENT_POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"same-origin"),
]


def _declared_length(scope: Mapping[str, Any]) -> int:
    value = dict(scope["headers"]).get(b"content-length", b"0")
    return int(value) if value.isdigit() else 0


async def _refuse(send: Send, status: int, text: str) -> None:
    body = text.encode()
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


__all__ = ["CONTENT_POLICY", "MESSAGE_BYTES", "RequestLimitMiddleware"]
