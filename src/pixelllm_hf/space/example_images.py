"""The images that the page offers to begin with."""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

SERIES = 700_000_000  # the composed scenes that demonstrations show; not trained and not measured on
SCENES = (12, 13)
_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")


class ExampleImages:
    """Files by their names, all in one folder that gradio may serve."""

    def __init__(self, files: Mapping[str, Path]):
        self.files = dict(files)
        self._names = {_digest(file): name for name, file in files.items()}

    @classmethod
    def collect(cls, folder: Path | None, into: Path) -> ExampleImages:
        """Copies of the images in a folder; without one, composed scenes, which are free of anybody's rights."""
        into.mkdir(parents=True, exist_ok=True)
        images = [] if folder is None else sorted(f for f in folder.iterdir() if f.suffix.lower() in _SUFFIXES)
        files = {}
        for image in images:
            name = re.sub(r"[^\w-]", "-", image.stem, flags=re.ASCII)[:64]
            files[name] = Path(shutil.copyfile(image, into / f"{name}{image.suffix.lower()}"))
        return cls(files or _composed(into))

    def name_of(self, file: Path) -> str | None:
        """The example that this file is a copy of."""
        return self._names.get(_digest(file))


def _composed(into: Path) -> dict[str, Path]:
    from pixelllm_hf.data.scenes import ObjectLibrary, compose_scene

    library = ObjectLibrary.builtin()
    files = {}
    for index in SCENES:
        file = into / f"scene-{index}.png"
        compose_scene(SERIES, index, library).image.save(file)
        files[file.stem] = file
    return files


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


__all__ = ["ExampleImages"]
