"""Starts the demo as a server of its own."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pixelllm_hf.extras import require
from pixelllm_hf.inference import default_model
from pixelllm_hf.processing.tasks import TASK_SPECS

from .temp_storage import BoundedFolder, Bounds, served_folder, temp_storage

if TYPE_CHECKING:
    from .limits import Limits

MODEL_VARIABLE = "PIXELLLM_MODEL"  # names the models of a published Space, commas between them
MAX_QUEUE = 64
SESSIONS = 500  # visitors whose last answer is kept
SERVED = Bounds(files=2000, bytes=1 << 30, seconds=3600)
_TRIM_EVERY = 60.0  # seconds
_THREADS = 8  # more would only wait: answers come one at a time


@dataclass
class Demo:
    """A running server. page: gradio's Blocks; url: where it is."""

    page: Any
    url: str
    _closing: threading.Event

    def wait(self) -> None:
        """Until the program is interrupted."""
        self.page.block_thread()

    def close(self) -> None:
        """Stop serving."""
        self._closing.set()
        self.page.close(verbose=False)


def end_in_order() -> None:
    """Ends the program when the system asks it to, as an interruption does: the temporary folder is removed then."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))


def default_models() -> list[str]:
    """Those that the environment names, else the embedded ones that do the tasks, the usual one first."""
    named = [model.strip() for model in os.environ.get(MODEL_VARIABLE, "").split(",")]
    return [model for model in named if model] or list(dict.fromkeys(default_model(task) for task in TASK_SPECS))


def start_demo(
    models: Sequence[str],
    *,
    host: str | None = None,
    port: int | None = None,
    share: bool = False,
    max_queue: int = MAX_QUEUE,
    examples: Path | None = None,
    limits: Limits | None = None,
    device: str = "auto",
    quiet: bool = False,
) -> Demo:
    """Load the models and serve the page, its API and its MCP tools; returns when it answers.

    models: folders, hub ids or names of embedded models. host: None is gradio's variable GRADIO_SERVER_NAME, or this
        machine alone.
    port: None is the first free one from 7860 on. share: through a tunnel of gradio's to the internet.
    max_queue: requests that wait; more are told that the queue is full. examples: folder of images to begin with.
    Errors: `MissingExtraError`, `UnknownGradioError`, `ModelError`, OSError if the port is taken.
    """
    own = temp_storage()  # before gradio is imported
    require("gradio", "mcp", what="the demo")
    from gradio.utils import LRUCache
    from starlette.middleware import Middleware

    from .app import CSS, HEAD, THEME, build_page
    from .connections import bounded_connections
    from .endpoints import tools_answer_in_json
    from .example_images import ExampleImages
    from .gate import RequestLimitMiddleware
    from .gradio_internals import UnknownGradioError, internal
    from .limits import Limits
    from .service import Service

    limits = limits or Limits()
    service = Service.load(models, limits=limits, device=device)
    uploads = served_folder(own)
    offered = ExampleImages.collect(examples, uploads / "offered")
    page = build_page(service, offered, uploads)
    # What is there before the first visitor belongs to the page: the examples, and gradio's copies of them.
    served = BoundedFolder(uploads, SERVED, kept=(file for file in uploads.rglob("*") if file.is_file()))
    page.queue(max_size=max_queue, default_concurrency_limit=1, api_open=False)
    # Answers to visitors who have gone: gradio would keep those of two thousand, images and all.
    queue = internal(page, "_queue")
    internal(queue, "pending_messages_per_session")
    queue.pending_messages_per_session = LRUCache(4 * max_queue + SESSIONS // 4)
    with bounded_connections():
        _, local_url, share_url = page.launch(
            server_name=host,
            server_port=port,
            share=share,
            quiet=quiet,
            prevent_thread_lock=True,
            inbrowser=False,
            max_threads=_THREADS,
            max_file_size=limits.upload_bytes,
            allowed_paths=[],
            state_session_capacity=SESSIONS,
            run_history=False,
            enable_monitoring=False,
            ssr_mode=False,
            pwa=False,
            mcp_server=True,
            footer_links=["api", "settings"],
            theme=THEME,
            css=CSS,
            head=HEAD,
            app_kwargs={
                "middleware": [
                    Middleware(RequestLimitMiddleware, upload_bytes=limits.upload_bytes, after_upload=served.trim)
                ],
            },
        )
    try:
        tools_answer_in_json(page)
    except UnknownGradioError:
        page.close(verbose=False)
        raise
    closing = threading.Event()
    threading.Thread(target=_keep_trim, args=(served, closing), daemon=True).start()
    return Demo(page, share_url or local_url, closing)


def _keep_trim(folder: BoundedFolder, closing: threading.Event) -> None:
    while not closing.wait(_TRIM_EVERY):
        folder.trim()


__all__ = [
    "MAX_QUEUE",
    "MODEL_VARIABLE",
    "Demo",
    "default_models",
    "end_in_order",
    "start_demo",
]
