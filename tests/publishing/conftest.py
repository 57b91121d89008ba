"""A Hub on this machine, which the real client takes for the real one, and no way to any other machine."""

from __future__ import annotations

import importlib.util
import shutil
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest


def _hub_server() -> Any:
    """The module beside this file; tests are imported without packages."""
    name = "pixelllm_tests_hub_server"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name("hub_server.py"))
        assert spec is not None and spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


@pytest.fixture(autouse=True)
def only_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection to another machine fails the test that makes it."""
    connect = socket.socket.connect

    def checked(self: socket.socket, address: Any) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in ("127.0.0.1", "::1", "localhost"):
            raise AssertionError(f"a connection to {address} was about to be made")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", checked)


@pytest.fixture
def make_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """`make_hub(**settings)` starts a Hub and points the client at it, with a token and an empty cache of its own."""
    import transformers.utils.hub
    from huggingface_hub import constants, file_download
    from huggingface_hub.utils import (
        _http,
        are_progress_bars_disabled,
        close_session,
        disable_progress_bars,
        enable_progress_bars,
    )

    started = []

    def start(**settings: Any) -> Any:
        hub = _hub_server().LocalHub(**settings).__enter__()
        started.append(hub)
        monkeypatch.setattr(constants, "ENDPOINT", hub.endpoint)
        template = hub.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setenv("HF_TOKEN", hub.token)
        return hub

    for name, value in {
        "HF_HUB_CACHE": str(tmp_path / "cache"),
        "HF_TOKEN_PATH": str(tmp_path / "token"),
        "HF_STORED_TOKENS_PATH": str(tmp_path / "stored_tokens"),
        "HF_HUB_DISABLE_XET": True,  # the server does not speak it
        "HF_HUB_DISABLE_TELEMETRY": True,
        "HF_HUB_OFFLINE": False,
    }.items():
        monkeypatch.setattr(constants, name, value)
    monkeypatch.setattr(transformers.utils.hub, "_hf_api", None)  # it remembers the address of its first use
    impatient = SimpleNamespace(**{name: getattr(time, name) for name in ("time", "monotonic", "perf_counter")})
    impatient.sleep = lambda seconds: None  # the client waits longer and longer between attempts
    monkeypatch.setattr(_http, "time", impatient)
    monkeypatch.setattr(file_download, "time", impatient)
    shown = not are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield start
    finally:
        close_session()
        if shown:
            enable_progress_bars()
        for hub in started:
            hub.__exit__()
            assert not [r.path for r in hub.requests if "xet" in r.path]


@pytest.fixture
def hub(make_hub: Any) -> Any:
    return make_hub()


@pytest.fixture
def checkpoint(small_checkpoint: Path, tmp_path: Path) -> Path:
    """A copy of the small model that a test may change, with a card."""
    folder = tmp_path / "checkpoint"
    shutil.copytree(small_checkpoint, folder)
    (folder / "README.md").write_text("---\nlicense: mit\ntags:\n- tests\n---\n\n# Small\n\nSays nothing.\n")
    return folder
