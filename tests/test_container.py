"""The Dockerfile of the demo: built and started where a container engine runs, else what matters of it is checked."""

from __future__ import annotations

import fnmatch
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
import urllib.request
import uuid
from importlib.metadata import version
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]


def instructions() -> list[tuple[str, str]]:
    """(name, arguments) of each instruction of the Dockerfile."""
    text = (REPOSITORY / "Dockerfile").read_text("utf-8").replace("\\\n", " ")
    lines = [line.strip() for line in text.splitlines()]
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in lines if line and not line.startswith("#")]


def only(name: str) -> str:
    (arguments,) = [arguments for called, arguments in instructions() if called == name]
    return arguments


def environment() -> dict[str, str]:
    pairs = [word for name, arguments in instructions() if name == "ENV" for word in shlex.split(arguments)]
    return dict(pair.split("=", 1) for pair in pairs)


def is_sent(path: str) -> bool:
    """Whether .dockerignore lets a file or folder of the repository into the build; its last matching line decides."""
    lines = [line for line in (REPOSITORY / ".dockerignore").read_text("utf-8").splitlines() if line[:1] not in "#"]
    sent = True
    for line in lines:
        pattern = line.removeprefix("!").removeprefix("**/")
        parts = Path(path).parts
        beginnings = ["/".join(parts[:count]) for count in range(1, len(parts) + 1)]
        names = [*beginnings, *(parts if "**/" in line else ())]
        if any(fnmatch.fnmatch(name, pattern) for name in names):
            sent = line.startswith("!")
    return sent


def copied(into: Path) -> list[str]:
    """Does what the COPY instructions do; returns what is copied, as the repository names it."""
    sources = []
    for name, arguments in instructions():
        if name != "COPY":
            continue
        *froms, to = arguments.split()
        for source in froms:
            target = into / to / Path(source).name if to.endswith("/") else into / to
            target.parent.mkdir(parents=True, exist_ok=True)
            if (REPOSITORY / source).is_dir():
                shutil.copytree(REPOSITORY / source, target, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
            else:
                shutil.copyfile(REPOSITORY / source, target)
            sources.append(source)
    return sources


def test_the_base_image_is_named_with_its_version_and_has_a_python_that_the_package_takes():
    base = re.fullmatch(r"python:(\d+)\.(\d+)-slim-\w+", only("FROM"))
    needed = re.search(r'python_requires=">=(\d+)\.(\d+)"', (REPOSITORY / "setup.py").read_text("utf-8"))
    assert base and needed
    assert tuple(map(int, base.groups())) >= tuple(map(int, needed.groups()))


def test_the_page_is_served_to_the_outside_by_a_user_without_rights():
    names = [name for name, _ in instructions()]
    assert names.index("USER") < names.index("CMD") and "RUN" not in names[names.index("USER") :]
    user = only("USER")
    assert user not in ("root", "0") and f"useradd --create-home --uid 1000 {user}" in only_run_with("useradd")
    assert environment()["GRADIO_SERVER_NAME"] == "0.0.0.0"
    assert only("EXPOSE") == environment()["GRADIO_SERVER_PORT"]
    assert f":{only('EXPOSE')}/config" in only("HEALTHCHECK")


def only_run_with(word: str) -> str:
    (found,) = [arguments for name, arguments in instructions() if name == "RUN" and word in arguments]
    return found


def test_what_is_copied_is_there_and_nothing_else_is_sent(tmp_path: Path):
    sources = copied(tmp_path)
    assert all(is_sent(source) for source in sources)
    assert is_sent("src/pixelllm_hf/checkpoints/tiny/config.json") and is_sent("demo/examples/scene.jpg")
    for kept in (".git/config", ".venv/pyvenv.cfg", "runs/x/model.safetensors", "src/pixelllm_hf/__pycache__/x.pyc"):
        assert not is_sent(kept), kept
    program, script = json.loads(only("CMD"))
    assert program == "python" and (tmp_path / script).read_text("utf-8") == (REPOSITORY / "demo/app.py").read_text(
        "utf-8"
    )
    assert list((tmp_path / "examples").glob("*.jpg"))


def test_what_is_copied_is_enough_to_install_the_package(tmp_path: Path):
    if int(version("setuptools").partition(".")[0]) < 77:
        pytest.skip("needs setuptools 77 or later, as pyproject.toml asks for, in this environment")
    copied(tmp_path / "app")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--no-index", "--no-build-isolation", "--no-compile", "--target", str(tmp_path / "installed"), "."]
    done = subprocess.run(command, cwd=tmp_path / "app", capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    package = tmp_path / "installed" / "pixelllm_hf"
    assert (package / "checkpoints/tiny/model.safetensors").is_file() and (
        package / "space/viewer_assets/viewer.js"
    ).is_file()


def test_the_image_is_built_and_serves_the_page():
    engine = next((name for name in ("docker", "podman") if shutil.which(name) and _runs(name)), None)
    if engine is None:
        pytest.skip("needs a container engine that runs: docker or podman")
    tag = f"pixelllm-test-{uuid.uuid4().hex[:8]}"
    arguments = ["--build-arg", f"TORCH={os.environ['TORCH']}"] if "TORCH" in os.environ else []
    port = only("EXPOSE")
    try:
        subprocess.run([engine, "build", "--tag", tag, *arguments, "."], cwd=REPOSITORY, check=True, timeout=3600)
        started = [engine, "run", "--detach", "--rm", "--name", tag, "--publish", f"127.0.0.1::{port}", tag]
        subprocess.run(started, check=True, timeout=300)
        address = subprocess.check_output([engine, "port", tag, port], text=True, timeout=60).split()[0]
        deadline = time.monotonic() + 600
        while True:
            try:
                config = json.load(urllib.request.urlopen(f"http://{address}/config", timeout=10))
                break
            except OSError:
                assert time.monotonic() < deadline, "the page did not answer"
                time.sleep(1)
        assert config["title"].startswith("PixelLLM")
        assert subprocess.check_output([engine, "exec", tag, "id", "-u"], text=True, timeout=60).strip() != "0"
    finally:
        subprocess.run([engine, "kill", tag], capture_output=True, timeout=300)
        subprocess.run([engine, "rmi", "--force", tag], capture_output=True, timeout=300)


def _runs(engine: str) -> bool:
    return subprocess.run([engine, "info"], capture_output=True, timeout=60).returncode == 0


def test_the_workflow_calls_the_same_checks_as_everybody_and_may_change_nothing():
    import yaml

    workflow = yaml.safe_load((REPOSITORY / ".github/workflows/ci.yml").read_text("utf-8"))
    (job,) = workflow["jobs"].values()
    commands = [step["run"] for step in job["steps"] if "run" in step]
    assert commands == [".ci/run"] and os.access(REPOSITORY / ".ci/run", os.X_OK)
    assert workflow["permissions"] == {"contents": "read"}
    assert {"push", "pull_request"} <= set(workflow[True]), "yaml reads the word on as true"
    python = next(step["with"]["python-version"] for step in job["steps"] if "setup-python" in step.get("uses", ""))
    assert python == "3.11"
