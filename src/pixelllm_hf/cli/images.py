"""The images that a command is about."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from .errors import UsageError, printable

STDIN = "-"
_NAMED = 5  # of the files that are left out


@dataclass(frozen=True)
class ImageInput:
    """One image, or an argument without any.

    name: as it was given or found, printable; source: for `read_image`, a path or the bytes of standard input.
    folder: the argument that it was found in. problem: why it cannot be used, if that is known already.
    """

    name: str
    source: str | bytes = field(repr=False)
    folder: str | None = None
    problem: str | None = None


@dataclass
class Inputs:
    """The images to work on, in order. `many`: a folder or several files; left_out: what to tell about folders."""

    images: list[ImageInput] = field(default_factory=list)
    many: bool = False
    left_out: list[str] = field(default_factory=list)

    @property
    def usable(self) -> list[ImageInput]:
        """Those whose pixels can be tried."""
        return [image for image in self.images if image.problem is None]


def find_images(arguments: Iterable[str], *, recursive: bool = False) -> Inputs:
    """Files as given, checked up to their first bytes; of a folder the files that can be images, sorted by name."""
    found = Inputs()
    for argument in arguments:
        if argument == STDIN:
            found.images.append(_from_stdin(found.images))
        elif os.path.isdir(argument):
            found.many = True
            found.images += _in_folder(argument, recursive, found.left_out)
        else:
            found.images.append(ImageInput(printable(argument), argument, problem=_problem(argument)))
    found.images = list({os.path.normpath(i.source) if i.name != STDIN else i.name: i for i in found.images}.values())
    found.many |= len(found.images) > 1
    return found


def names_from_root(images: Iterable[ImageInput]) -> dict[ImageInput, str]:
    """What each image is called beside the others: its path from the folder that all have in common, with "/".

    Equal names in two folders stay apart so; images of one folder have their names alone.
    """
    names = dict.fromkeys(images, "stdin")
    paths = {image: os.path.abspath(image.source) for image in names if isinstance(image.source, str)}
    folders = [os.path.abspath(image.folder) if image.folder else os.path.dirname(paths[image]) for image in paths]
    try:
        root = os.path.commonpath(folders) if folders else ""
    except ValueError:  # on several drives
        root = ""
    for image, path in paths.items():
        names[image] = printable(Path(os.path.relpath(path, root) if root else path).as_posix())
    return names


def stems_from_root(images: Iterable[ImageInput]) -> dict[ImageInput, str]:
    """`names_from_root` without suffixes, as long as that leaves them different: names for files about the images."""
    names = names_from_root(images)
    stems = {image: os.path.splitext(name)[0].lstrip("/") for image, name in names.items()}
    often = Counter(stems.values())
    return {image: stem if often[stem] == 1 else names[image].lstrip("/") for image, stem in stems.items()}


def _from_stdin(before: Iterable[ImageInput]) -> ImageInput:
    from pixelllm_hf.processing.image_reading import MAX_IMAGE_BYTES

    if any(image.name == STDIN for image in before):
        raise UsageError("standard input (-) can be read once; name it once. A file with that name is ./-")
    if sys.stdin is None or sys.stdin.isatty():
        raise UsageError("- reads an image from standard input, but that is a terminal. Example: cat a.jpg | … -")
    content = sys.stdin.buffer.read(MAX_IMAGE_BYTES + 1)
    problem = None
    if not content:
        problem = "nothing came from standard input."
    elif len(content) > MAX_IMAGE_BYTES:
        problem = f"more than {MAX_IMAGE_BYTES / 2**20:.0f} MiB came from standard input."
    return ImageInput(STDIN, content, problem=problem)


def _problem(path: str) -> str | None:
    """What can be said about a file before its pixels are decoded."""
    from pixelllm_hf.processing.image_reading import ImageError, check_image_file

    try:
        check_image_file(path)
    except ImageError as error:
        return str(error)
    return None


def _in_folder(folder: str, recursive: bool, left_out: list[str]) -> Iterator[ImageInput]:
    """The images of a folder; tells about everything else in it."""
    from pixelllm_hf.processing.image_reading import readable_suffixes

    suffixes = readable_suffixes()
    unreadable: list[str] = []
    files: list[str] = []
    others: list[str] = []
    folders: list[str] = []
    for place, below, names in os.walk(folder, onerror=lambda error: unreadable.append(str(error))):
        if recursive:
            links = [name for name in below if os.path.islink(os.path.join(place, name))]  # they may lead in circles
            folders += [os.path.join(place, name) for name in links]
        else:
            folders += [os.path.join(place, name) for name in below]
            below.clear()
        below.sort()
        for name in sorted(names):
            path = os.path.join(place, name)
            is_image = os.path.splitext(name)[1].lower() in suffixes and os.path.isfile(path)
            (files if is_image else others).append(path)
    shown = printable(folder)
    if others:
        total = len(files) + len(others)
        left_out.append(
            f"{shown}: {len(others)} of {total} files left out, not images that are read here: {_named(others, folder)}"
        )
    if folders:
        why = "links to folders are not followed" if recursive else "--recursive reads them too"
        left_out.append(f"{shown}: {len(folders)} sub-folders left out ({why}): {_named(folders, folder)}")
    for problem in unreadable:
        yield ImageInput(shown, folder, problem=f"the folder cannot be read ({printable(problem)}).")
    if not files and not unreadable:
        yield ImageInput(shown, folder, problem=f"the folder has no images ({', '.join(sorted(suffixes))}).")
    for path in files:
        yield ImageInput(printable(path), path, folder=folder)


def _named(paths: list[str], folder: str) -> str:
    """A few by name, of many how many there are of each suffix."""
    if len(paths) <= _NAMED:
        return ", ".join(printable(os.path.relpath(path, folder)) for path in paths)
    suffixes = Counter(os.path.splitext(path)[1].lower() or "no suffix" for path in paths)
    return ", ".join(f"{number} {printable(suffix)}" for suffix, number in suffixes.most_common())
