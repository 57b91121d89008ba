"""Saving so that a kill or a full disk leaves the former model or the new one."""

import os
import re
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_WEIGHTS = re.compile(r"model(-\d{5}-of-\d{5})?\.safetensors|model\.safetensors\.index\.json")
_DAY = 24 * 3600


@contextmanager
def saved_whole(target: Path) -> Iterator[Path]:
    """A temporary folder to save into; on leaving it becomes `target`, or its files take their places there.

    What else `target` holds stays, but for weights of an earlier save under other names, which would be loaded in the
    place of the new ones. Only the renames at the end touch what is there.
    """
    target = Path(os.path.abspath(target))
    target.parent.mkdir(parents=True, exist_ok=True)
    # Inside a folder that exists: it may be a mount, beside which nothing can be renamed into it.
    temporary = (target if target.is_dir() else target.parent) / f".{target.name}.{uuid.uuid4().hex[:12]}.saving"
    _remove_old(temporary.parent)
    temporary.mkdir()
    try:
        yield temporary
        files = [path for path in sorted(temporary.rglob("*")) if path.is_file()]
        for file in files:
            _sync(file)
        if target.is_dir():
            _move(temporary, files, target)
        else:
            temporary.rename(target)
        _sync(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _move(folder: Path, files: list[Path], target: Path) -> None:
    # Weights first: with an older config they load or are refused, while a config without its weights does neither.
    for file in sorted(files, key=lambda file: not file.name.endswith(".safetensors")):
        place = target / file.relative_to(folder)
        place.parent.mkdir(parents=True, exist_ok=True)
        file.replace(place)
    written = {file.name for file in files}
    if any(_WEIGHTS.fullmatch(name) for name in written):
        for path in target.iterdir():
            if _WEIGHTS.fullmatch(path.name) and path.name not in written:
                path.unlink()


def _remove_old(folder: Path) -> None:
    """What killed processes left; a day is longer than any save that still runs."""
    for path in folder.glob(".*.saving"):
        if path.is_dir() and time.time() - path.stat().st_mtime > _DAY:
            shutil.rmtree(path, ignore_errors=True)


def _sync(path: Path) -> None:
    if os.name == "nt" and path.is_dir():  # folders cannot be opened there
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
