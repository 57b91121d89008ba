"""The pictures that a command is about."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

PICTURE_SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}


@dataclass
class Inputs:
    """The pictures to work on, in order. `many`: a folder or several files; `problems`: arguments without any."""

    files: list[Path] = field(default_factory=list)
    many: bool = False
    problems: dict[str, str] = field(default_factory=dict)


def find_pictures(arguments: Iterable[str]) -> Inputs:
    """Files as given; of a folder the files that look like pictures, sorted by name."""
    found = Inputs()
    for argument in arguments:
        path = Path(argument)
        if not path.is_dir():
            found.files.append(path)
            continue
        found.many = True
        try:
            inside = sorted(f for f in path.iterdir() if f.suffix.lower() in PICTURE_SUFFIXES and f.is_file())
        except OSError as error:
            found.problems[argument] = f"the folder cannot be read ({error})."
            continue
        if not inside:
            found.problems[argument] = f"the folder has no pictures ({', '.join(sorted(PICTURE_SUFFIXES))})."
        found.files += inside
    found.files = list(dict.fromkeys(found.files))
    found.many |= len(found.files) > 1
    return found
