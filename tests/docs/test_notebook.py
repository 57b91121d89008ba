"""The notebook runs from top to bottom, and is kept without its outputs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).parents[2]
NOTEBOOK = REPOSITORY / "notebooks" / "grounded_captioning.ipynb"

for name in ("nbclient", "nbformat", "ipykernel"):
    pytest.importorskip(name, reason=f"the notebook is not run: {name} is not installed")


@pytest.fixture(scope="module")
def book() -> Any:
    import nbformat

    return nbformat.read(NOTEBOOK, as_version=4)


def test_the_notebook_is_kept_without_outputs(book: Any):
    import nbformat

    nbformat.validate(book)
    code = [cell for cell in book.cells if cell.cell_type == "code"]
    assert code
    assert all(not cell.outputs and cell.execution_count is None for cell in code)


def test_the_notebook_runs_and_shows_what_it_draws(book: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from nbclient import NotebookClient

    # the kernel is another process: it finds the package where this one has it, and its temporary files here
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(REPOSITORY / "src"), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    where = {"metadata": {"path": str(tmp_path)}}
    done = NotebookClient(book, timeout=900, startup_timeout=300, resources=where).execute()
    outputs = [output for cell in done.cells for output in cell.get("outputs", ())]
    drawn = [output for output in outputs if "image/png" in output.get("data", {})]
    assert len(drawn) == 2, "a caption, and the boxes of expressions"
    assert not [output for output in outputs if output.output_type == "error"]
