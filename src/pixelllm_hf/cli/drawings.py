"""Drawings in files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pixelllm_hf.files import atomic_path

from .errors import UsageError
from .pictures import PICTURE_SUFFIXES

if TYPE_CHECKING:
    from PIL import Image

    from pixelllm_hf.processing.grounded_results import GroundedCaption


@dataclass
class Drawings:
    """Where drawings go: one file, or a folder in which they are called after their pictures."""

    path: Path
    is_folder: bool
    taken: set[Path]  # resolved: the pictures themselves and what has been drawn
    drawn: int = 0

    @classmethod
    def plan(cls, path: Path | None, pictures: Sequence[Path]) -> Drawings | None:
        """A path without a suffix is a folder. A drawing never takes the place of one of the pictures."""
        if path is None:
            return None
        is_folder = path.is_dir() or not path.suffix
        if not is_folder and path.suffix.lower() not in PICTURE_SUFFIXES:
            raise UsageError(
                f"--draw needs a file ending in one of {', '.join(sorted(PICTURE_SUFFIXES))} or a folder, "
                f"but it is {str(path)!r}."
            )
        folder = path if is_folder else path.parent
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"--draw: the folder {folder} cannot be made ({error}).") from error
        sources = {picture.resolve() for picture in pictures}
        if path.resolve() in sources:
            raise UsageError(f"--draw {path} is one of the pictures to describe; give the drawing another name.")
        return cls(path, is_folder, sources)

    def draw(self, picture: Path, results: Sequence[GroundedCaption], *, together: bool) -> list[Path]:
        """Write the drawing of each result, or one of all of them; returns where."""
        from pixelllm_hf.processing.grounded_results import draw_results

        if together:
            return [self._write(picture, draw_results(picture, results))]
        return [self._write(picture, result.draw(picture)) for result in results]

    def _write(self, picture: Path, drawing: Image.Image) -> Path:
        target = self._free_name(picture)
        self.taken.add(target.resolve())
        self.drawn += 1
        with atomic_path(target) as temporary:
            drawing.save(temporary)
        return target

    def _free_name(self, picture: Path) -> Path:
        """The first drawing of `--draw out.png` is out.png, later ones are out-photo.png; then with numbers."""
        if self.is_folder:
            stem, suffix, folder = picture.stem, ".png", self.path
        elif not self.drawn:
            return self.path
        else:
            stem, suffix, folder = f"{self.path.stem}-{picture.stem}", self.path.suffix, self.path.parent
        target, number = folder / f"{stem}{suffix}", 2
        while target.resolve() in self.taken:
            target, number = folder / f"{stem}-{number}{suffix}", number + 1
        return target
