"""No way to any other machine, and a model to publish; the Hub on this one is a fixture of all tests."""

from __future__ import annotations

import shutil
import socket
from pathlib import Path
from typing import Any

import pytest


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
def checkpoint(small_checkpoint: Path, tmp_path: Path) -> Path:
    """A copy of the small model that a test may change, with a card."""
    folder = tmp_path / "checkpoint"
    shutil.copytree(small_checkpoint, folder)
    (folder / "README.md").write_text("---\nlicense: mit\ntags:\n- tests\n---\n\n# Small\n\nSays nothing.\n")
    return folder
