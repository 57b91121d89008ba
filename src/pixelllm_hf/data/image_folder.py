"""Image files by the ids and names that annotation files use, and whether they are the ones that were annotated."""

from __future__ import annotations

import os
from functools import cached_property
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from PIL import Image as PILImage

from pixelllm_hf.data.bad_records import BadRecordError
from pixelllm_hf.data.record_fields import MAX_SIDE, checked_string, shown
from pixelllm_hf.processing.image_reading import ImageError, read_image, readable_suffixes

_FIRST_SUFFIXES = (".jpg", ".png", ".jpeg")  # where an id has several files, in this order


class ImageFolder:
    """Finds image files by the ids and names that annotation files use, and their sizes without decoding them.

    check: decode every file that is found and compare it with the annotated size, so that a damaged one, or one of
    another shape, is a bad record now and no surprise in training.
    """

    def __init__(self, folder: str | Path, *, check: bool = False):
        self.folder, self.check = Path(folder), check
        if not self.folder.is_dir():
            raise FileNotFoundError(f"the image folder {str(folder)!r} does not exist. Pass the folder of image files.")
        self._listed: dict[str, tuple[str, ...]] = {}  # files found by a part of a listed name -> that name

    def find(self, where: str, image_id: object, *names: str | None, size_wh: tuple[int, int] | None = None) -> Path:
        """The file of an image; `where` names the record.

        names: what the record calls it: file names, paths, URLs; None where it does not say. A name is looked for as it
        is, then without its first folders ("coco/train2017/1.jpg", "train2017/1.jpg", "1.jpg"), so that Visual Genome's
        URLs find VG_100K and VG_100K_2. Then the image's id with every suffix that can be read.
        size_wh: what it was annotated at, for `check`.
        """
        given = [(name, _parts(where, name)) for name in names if name is not None]
        path = self._by_name(where, [parts for _, parts in given]) or self._by_id(image_id)
        if path is None:
            tried = shown(given[0][0]) if given else f"the id {shown(image_id)}"
            raise BadRecordError(
                "missing image",
                where,
                f"no file for image {shown(image_id)} in {str(self.folder)!r} (tried {tried} and other spellings).",
                "Put the image there or read with on_error='skip'.",
            )
        checked_string(where, str(path), "the path of the image")
        if self.check:
            self._check(where, path, size_wh)
        return path

    def _by_name(self, where: str, listed: list[tuple[str, ...]]) -> Path | None:
        for parts in listed:
            for start in range(len(parts)):
                path = self.folder.joinpath(*parts[start:])
                if _is_file(path):
                    if start:
                        self._refuse_a_second_name(where, path, parts)
                    return path
            # COCO's of 2014 often lie under the shorter names of 2017.
            if parts and parts[-1].startswith("COCO_"):
                path = self.folder / parts[-1].rsplit("_", 1)[-1]
                if _is_file(path):
                    return path
        return None

    def _refuse_a_second_name(self, where: str, path: Path, parts: tuple[str, ...]) -> None:
        """Of "a/1.jpg" and "b/1.jpg" one file "1.jpg" can be but one."""
        first = self._listed.setdefault(str(path), parts)
        shorter, longer = sorted((first, parts), key=len)
        if longer[len(longer) - len(shorter) :] != shorter:
            raise BadRecordError(
                "ambiguous image",
                where,
                f"{path.name!r} was found for {shown('/'.join(first))} and for {shown('/'.join(parts))}.",
                "Keep the folders that the annotations name.",
            )

    def _by_id(self, image_id: object) -> Path | None:
        # A name and no path: ids come from files, and must not lead out of the folder.
        name = PurePosixPath(str(image_id).replace("\\", "/")).name
        if not name or name == ".." or "\0" in name:
            return None
        for stem in (name, name.zfill(12)):
            for candidate in (stem, *(stem + suffix for suffix in _FIRST_SUFFIXES)):
                if _is_file(self.folder / candidate):
                    return self.folder / candidate
            if stem in self._other_files:
                return self.folder / self._other_files[stem]
        return None

    @cached_property
    def _other_files(self) -> dict[str, str]:
        """Stem -> name of the images with other suffixes (".webp", ".JPG", ...), listed once."""
        readable = readable_suffixes()
        with os.scandir(self.folder) as entries:
            names = sorted(entry.name for entry in entries if os.path.splitext(entry.name)[1].lower() in readable)
        return {os.path.splitext(name)[0]: name for name in reversed(names)}

    @staticmethod
    def _check(where: str, path: Path, size_wh: tuple[int, int] | None) -> None:
        try:
            image = read_image(path)
        except ImageError as error:
            raise BadRecordError("unreadable image", where, str(error), "Or skip the record.") from error
        if size_wh is not None and (problem := shape_problem(str(path), image.size_wh, size_wh)):
            raise BadRecordError("image of another shape", where, problem, "Pair the annotations with their images.")

    @staticmethod
    def size_wh(where: str, path: Path) -> tuple[int, int]:
        """Width and height as a viewer shows them (EXIF orientation applied), from the file's header."""
        try:
            with PILImage.open(path) as image:
                width, height = image.size
                turned = image.getexif().get(0x0112, 1) in (5, 6, 7, 8)
        except Exception as error:  # Pillow raises nearly anything on a damaged header
            raise BadRecordError(
                "unreadable image", where, f"{str(path)!r} cannot be read ({error}).", "Replace the file or skip it."
            ) from error
        if not 1 <= min(width, height) <= max(width, height) <= MAX_SIDE:
            raise BadRecordError(
                "unreadable image", where, f"{str(path)!r} claims {width} x {height} pixels.", "Replace the file."
            )
        return (height, width) if turned else (width, height)


def shape_problem(name: str, image_wh: tuple[int, int], annotated_wh: tuple[int, int]) -> str | None:
    """Why an image of this size is none that was annotated at the other, or None: resized copies of it will do."""
    (width, height), (annotated_width, annotated_height) = image_wh, annotated_wh
    expected = width * annotated_height / annotated_width
    if abs(height - expected) <= max(2.0, 0.02 * expected):
        return None
    turned = abs(width - height * annotated_height / annotated_width) <= max(2.0, 0.02 * width)
    return (
        f"the annotations are for {annotated_width}x{annotated_height} pixels, but {name} has {width}x{height}, "
        f"another shape{'; were they made before its EXIF orientation was applied?' if turned else '.'}"
    )


def _parts(where: str, name: object) -> tuple[str, ...]:
    """The folders and the file name of a listed name, of a URL those of its path; nothing that leads elsewhere."""
    text = checked_string(where, name, "the image's file name")
    if "\0" in text:
        raise BadRecordError("malformed text", where, f"no file has the name {shown(text)}.", "Fix it.")
    if "://" in text:
        text = unquote(text.split("://", 1)[1].split("?")[0].split("#")[0])
    return tuple(part for part in text.replace("\\", "/").split("/") if part not in ("", ".", ".."))


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that no file can have
        return False
