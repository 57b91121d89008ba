"""Drawings in files."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pixelllm_hf.files import atomic_path

from .errors import UsageError
from .images import ImageInput, stems_from_root

if TYPE_CHECKING:
    from PIL import Image

    from pixelllm_hf.processing.grounded_results import GroundedCaption

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")


@dataclass
class Drawings:
    """Where drawings go: one file, or a folder in which they are called after their images, as `stems` says."""

    path: Path
    is_folder: bool
    stems: dict[ImageInput, str]
    taken: set[str]  # real paths: the images themselves and what has been drawn
    drawn: int = 0

    @classmethod
    def plan(cls, path: Path | None, images: Sequence[ImageInput]) -> Drawings | None:
        """A path without a suffix is a folder. A drawing never takes the place of one of the images."""
        if path is None:
            return None
        is_folder = path.is_dir() or not path.suffix
        if not is_folder and path.suffix.lower() not in SUFFIXES:
            raise UsageError(
                f"--draw needs a file ending in one of {', '.join(SUFFIXES)} or a folder, but it is {str(path)!r}."
            )
        folder = path if is_folder else path.parent
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"--draw: the folder {folder} cannot be made ({error}).") from error
        sources = {os.path.realpath(image.source) for image in images if isinstance(image.source, str)}
        if os.path.realpath(path) in sources:
            raise UsageError(f"--draw {path} is one of the images to describe; give the drawing another name.")
        return cls(path, is_folder, stems_from_root(images), sources)

    def draw(self, image: ImageInput, results: Sequence[GroundedCaption], *, together: bool) -> list[Path]:
        """Write the drawing of each result, or one of all of them; returns where."""
        from pixelllm_hf.processing.grounded_results import draw_results

        if together:
            return [self._write(image, draw_results(image.source, results))]
        return [self._write(image, result.draw(image.source)) for result in results]

    def _write(self, image: ImageInput, drawing: Image.Image) -> Path:
        target = self._free_name(image)
        self.taken.add(os.path.realpath(target))
        self.drawn += 1
        target.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(target) as temporary:
            drawing.save(temporary)
        return target

    def _free_name(self, image: ImageInput) -> Path:
        """The first drawing of `--draw out.png` is out.png, later ones are out-photo.png; then with numbers."""
        stem = self.stems[image]
        if self.is_folder:
            suffix, folder = ".png", self.path
        elif not self.drawn:
            return self.path
        else:
            stem, suffix = f"{self.path.stem}-{stem.replace('/', '-')}", self.path.suffix
            folder = self.path.parent
        target, number = folder / f"{stem}{suffix}", 2
        while os.path.realpath(target) in self.taken:
            target, number = folder / f"{stem}-{number}{suffix}", number + 1
        return target
