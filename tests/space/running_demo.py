"""A demo that really serves, with the embedded model and one that has all heads, and what to ask it with."""

from __future__ import annotations

import io
import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from pixelllm_hf.space.limits import Limits

EXAMPLES = Path(__file__).parents[2] / "demo" / "examples"
SCENE = EXAMPLES / "scene.jpg"
LIMITS = Limits(upload_bytes=1 << 20, pixels=2_000_000, new_tokens=24, seconds=300)
META = {"_type": "gradio.FileData"}


@pytest.fixture(scope="session")
def demo(small_checkpoint: Path) -> Iterator[Any]:
    """The running demo; `.url` is its address."""
    pytest.importorskip("gradio", reason="needs gradio: pip install pixelllm-hf[demo]")
    pytest.importorskip("mcp", reason="needs mcp: pip install pixelllm-hf[demo]")
    from pixelllm_hf.space.launching import start_demo

    models = ["tiny", str(small_checkpoint)]
    running = start_demo(models, limits=LIMITS, examples=EXAMPLES, device="cpu", host="127.0.0.1", quiet=True)
    yield running
    running.close()


@pytest.fixture(scope="session")
def uploads() -> Path:
    """The folder that the demo serves."""
    from pixelllm_hf.space.temp_storage import served_folder, temp_storage

    return served_folder(temp_storage())


def image_bytes(size: tuple[int, int] = (60, 40), form: str = "PNG") -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form)
    return buffer.getvalue()


def upload(url: str, content: bytes, name: str = "image.png") -> httpx.Response:
    return httpx.post(f"{url}gradio_api/upload", files={"files": (name, content)}, timeout=120)


def uploaded(url: str, content: bytes, name: str = "image.png") -> dict[str, Any]:
    """Gradio's record of the uploaded file."""
    return {"path": upload(url, content, name).raise_for_status().json()[0], "meta": META}


def ask(url: str, endpoint: str, *data: Any) -> tuple[bool, Any]:
    """What a plain HTTP client sees: whether it succeeded, and the answers or the error message."""
    functions = httpx.get(f"{url}config", timeout=120).json()["dependencies"]
    session = uuid.uuid4().hex
    body = {"data": list(data), "session_hash": session}
    body["fn_index"] = next(d["id"] for d in functions if d["api_name"] == endpoint)
    httpx.post(f"{url}gradio_api/queue/join", json=body, timeout=120).raise_for_status()
    with httpx.stream("GET", f"{url}gradio_api/queue/data", params={"session_hash": session}, timeout=300) as events:
        for line in events.iter_lines():
            message = json.loads(line[5:]) if line.startswith("data:") else {}
            if message.get("msg") == "process_completed":
                output = message["output"]
                return (True, output["data"][0]) if message["success"] else (False, output["error"])
    raise AssertionError("the stream ended without an answer")
