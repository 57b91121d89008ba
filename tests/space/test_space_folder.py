"""demo/ as it is published: a folder that runs where this package is not installed."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path

import httpx
import pytest

from pixelllm_hf.publishing.model_card import validate_card
from pixelllm_hf.publishing.repository import SPACE_MODEL_VARIABLE, publish_space
from pixelllm_hf.space.gradio_internals import MADE_FOR
from pixelllm_hf.space.launching import MODEL_VARIABLE

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "demo"


@pytest.fixture(scope="module")
def files() -> tuple[str, ...]:
    return publish_space(DEMO, "org/demo", model_id="org/model", rehearse=True).files


def test_the_demo_is_a_space_with_all_that_the_page_needs(files):
    assert {"app.py", "README.md", "requirements.txt", "examples/scene.jpg"} <= set(files)
    assert {"pixelllm_hf/space/app.py", "pixelllm_hf/space/viewer_assets/viewer.js"} <= set(files)
    assert not any(name.startswith("pixelllm_hf/checkpoints") or name.endswith(".pyi") for name in files)


def test_publishing_and_the_demo_mean_the_same_variable():
    assert SPACE_MODEL_VARIABLE == MODEL_VARIABLE


def test_the_space_runs_a_gradio_that_the_package_asks_for_and_the_demo_knows():
    from packaging.requirements import Requirement

    data = validate_card((DEMO / "README.md").read_text("utf-8"), kind="space").data
    asked = [Requirement(line) for line in (DEMO / "requirements.txt").read_text("utf-8").splitlines()]
    asked += [Requirement(line) for line in metadata.requires("pixelllm_hf") or []]
    wanted = [requirement for requirement in asked if requirement.name == "gradio"]
    assert len(wanted) >= 2 and all(data.sdk_version in requirement.specifier for requirement in wanted)
    assert data.sdk_version.startswith(f"{MADE_FOR}.")


def test_the_published_folder_serves_the_model_that_its_variable_names(files, tmp_path, small_checkpoint):
    pytest.importorskip("gradio", reason="needs gradio: pip install pixelllm-hf[demo]")
    space, temporary = tmp_path / "space", tmp_path / "temporary"
    temporary.mkdir()
    for name in files:
        source = DEMO / name if (DEMO / name).is_file() else ROOT / "src" / name
        (space / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, space / name)
    page = space / "pixelllm_hf" / "space" / "app.py"
    page.write_text(page.read_text().replace('TITLE = "', 'TITLE = "Copied '))  # to know it from the one here
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {MODEL_VARIABLE: str(small_checkpoint), "GRADIO_SERVER_PORT": str(port), "TMPDIR": str(temporary)}
    with tempfile.TemporaryFile() as log:
        server = subprocess.Popen([sys.executable, "app.py"], cwd=space, env=environment, stdout=log, stderr=log)
        try:
            config = _config(server, f"http://127.0.0.1:{port}")
        finally:
            server.terminate()
            server.wait(timeout=300)
            log.seek(0)
            print(log.read().decode())
    models = next(c["props"] for c in config["components"] if c["props"].get("elem_id") == "model")
    assert models["value"] == small_checkpoint.name
    assert config["title"].startswith("Copied "), "the copy beside app.py was used"
    assert not list(temporary.glob("pixelllm-demo-*")), "its temporary folder has gone with it"


def _config(server: subprocess.Popen[bytes], url: str) -> dict:
    deadline = time.monotonic() + 600
    while server.poll() is None and time.monotonic() < deadline:
        try:
            return httpx.get(f"{url}/config", timeout=30).raise_for_status().json()
        except httpx.HTTPError:
            time.sleep(0.5)
    raise AssertionError("the Space did not start")
