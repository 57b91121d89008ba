"""Gradio's page, without its habit of fetching whatever address a request names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote, urlsplit

import gradio as gr

from .gradio_internals import internal

_OWN_FILES = "/gradio_api/file="


class LocalFilesOnlyBlocks(gr.Blocks):
    """Blocks whose inputs may name uploaded files only.

    Gradio downloads a file whose "path" is an address, for any kind of input. Here such a request is refused before;
    the address of a file that was uploaded here, which MCP clients have, is turned into that file.
    """

    def __init__(self, **options: Any):
        internal(gr.Blocks, "preprocess_data")
        super().__init__(**options)

    async def preprocess_data(self, block_fn: Any, inputs: list[Any], *args: Any, **kwargs: Any) -> list[Any]:
        return await super().preprocess_data(block_fn, [sealed(value) for value in inputs], *args, **kwargs)


def sealed(value: Any) -> Any:
    """The value with addresses of own files as paths; a `gr.Error` for any other address in the place of a path."""
    if isinstance(value, Mapping):
        value = {key: sealed(item) for key, item in value.items()}
        path = value.get("path")
        if isinstance(path, str) and "://" in path:
            return value | {"path": _own_path(path), "url": None}
        return value
    if isinstance(value, list):
        return [sealed(item) for item in value]
    return value


def _own_path(address: str) -> str:
    """Nothing is asked of the host that the address names, so it may be any."""
    parts = urlsplit(address)
    path = unquote(parts.path.partition(_OWN_FILES)[2])
    if parts.scheme not in ("http", "https") or not path or "://" in path:
        raise gr.Error(
            "this demo fetches nothing from other servers. Upload the image, or send it as a data URI to the tool.",
            print_exception=False,
        )
    return path


__all__ = ["LocalFilesOnlyBlocks", "sealed"]
