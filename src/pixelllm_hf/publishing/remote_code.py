"""The package's own modules beside the weights, so that the model loads where the package is not installed."""

from __future__ import annotations

import shutil
from pathlib import Path

import pixelllm_hf

from .contents import code_files

NAMING = ("config.json", "processor_config.json")  # the files that say which code is theirs


def code_beside(folder: Path, into: Path) -> dict[str, Path]:
    """Repository path -> file for what a folder lacks to be loaded by `trust_remote_code`; {} if it lacks nothing.

    These are the Python files and the configuration files that name them; they are written to `into`.
    """
    named = code_files(folder)
    if named and all((folder / name).is_file() for name in named):
        return {}
    into.mkdir(parents=True, exist_ok=True)
    for name in NAMING:
        shutil.copyfile(folder / name, into / name)
    pixelllm_hf.export_code(into)
    return {path.name: path for path in sorted(into.iterdir()) if path.is_file()}
