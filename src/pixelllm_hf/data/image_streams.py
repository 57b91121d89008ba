"""The images of any data set, one after the other, without decoding those that nobody asks for."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pixelllm_hf.extras import require


class ImageStreamError(ValueError):
    """A data set that cannot be read, or that has no images."""


@dataclass(frozen=True)
class StreamedImage:
    """index: from 0; name: its path or id; source: a path or the bytes of its file."""

    index: int
    name: str
    source: str | bytes


@dataclass(frozen=True)
class ImageStream:
    """rows: a sequence or an iterable of rows whose `column` has an image that is not decoded.

    total: how many there are, None if nobody knows. `groups(size)` gives them in groups that follow each other.
    """

    rows: Any
    column: str
    total: int | None

    def names(self, number: int, size: int) -> list[str] | None:
        """Of the images of a group, None where they would have to be read for it."""
        if not isinstance(self.rows, list):
            return None
        return [self._image(0, row).name for row in self.rows[number * size : (number + 1) * size]]

    def groups(
        self, size: int, wanted: Callable[[int], bool], skipped: Callable[[int, int], None] = lambda number, count: None
    ) -> Iterator[tuple[int, list[StreamedImage] | None]]:
        """Number and images of each group; None in the place of images of a group that is not `wanted(number)`, of
        which `skipped(number, count)` is told.

        The last group tells the end: it may be empty.
        """
        if isinstance(self.rows, Sequence) or hasattr(self.rows, "select"):
            for number in range(-(-len(self.rows) // size)):
                indices = range(number * size, min(len(self.rows), (number + 1) * size))
                if wanted(number):
                    yield number, [self._image(i, self.rows[i]) for i in indices]
                else:
                    skipped(number, len(indices))
                    yield number, None
            return
        rows = enumerate(self.rows)
        for number in itertools.count():
            group = list(itertools.islice(rows, size)) if wanted(number) else None
            if group is None:
                count = sum(1 for _ in itertools.islice(rows, size))
                if not count:
                    return
                skipped(number, count)
                yield number, None
            elif group:
                yield number, [self._image(index, row) for index, row in group]
            if group is not None and len(group) < size:
                return

    def _image(self, index: int, row: Any) -> StreamedImage:
        image = row[self.column] if isinstance(row, dict) else row
        name = next((str(row[key]) for key in _NAMES if isinstance(row, dict) and row.get(key) is not None), None)
        if isinstance(image, str):
            return StreamedImage(index, name or image, image)
        path, content = (image or {}).get("path"), (image or {}).get("bytes")
        return StreamedImage(index, name or path or str(index), content if content is not None else path or b"")


_NAMES = ("image_id", "file_name", "id")


def open_images(
    name: str, *, split: str = "train", limit: int | None = None, apart_from: Path | None = None
) -> ImageStream:
    """The images of a folder of image files, of a data set in a folder, or of one on the Hub, which is streamed.

    split: of a data set. limit: only the first so many. apart_from: a folder whose files are none of the images, should
    it lie among them: what is written about them.
    """
    path = Path(name)
    if path.is_file():
        raise ImageStreamError(f"{name!r} is a file. Name the folder that it lies in.")
    if path.is_dir():
        paths = [p for p in path.rglob("*") if apart_from is None or not _lies_in(p, apart_from)]
        if not _is_data_set(path, paths) and (files := _files(path, paths)[:limit]):
            return ImageStream(files, "image", len(files))
    return _data_set(name, split, limit)


def _lies_in(path: Path, folder: Path) -> bool:
    return os.path.abspath(path).startswith(os.path.join(os.path.abspath(folder), ""))


def _is_data_set(folder: Path, paths: Sequence[Path]) -> bool:
    """Whether rows lie there, and not image files alone."""
    names = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
    return any((folder / name).is_file() for name in names) or any(
        path.suffix in (".parquet", ".arrow", ".tar") for path in paths
    )


def _files(folder: Path, paths: Sequence[Path]) -> list[dict[str, str]]:
    from pixelllm_hf.processing.image_reading import readable_suffixes

    found = sorted(p for p in paths if p.suffix.lower() in readable_suffixes() and p.is_file())
    return [{"image": str(path), "file_name": path.relative_to(folder).as_posix()} for path in found]


def _data_set(name: str, split: str, limit: int | None) -> ImageStream:
    require("datasets", what="reading data sets")
    import datasets

    datasets.disable_progress_bars()
    try:
        path = Path(name)
        rows: Any
        if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
            loaded = datasets.load_from_disk(name)
            rows = loaded[split] if isinstance(loaded, datasets.DatasetDict) else loaded
        else:
            rows = datasets.load_dataset(name, split=split, streaming=True)
    except KeyError as error:
        raise ImageStreamError(f"{name!r} has no split {split!r}. Name one with --split.") from error
    except Exception as error:  # the library has types of its own, and of several others
        raise ImageStreamError(f"the data set {name!r} cannot be read: {' '.join(str(error).split())[:300]}") from error
    features = rows.features or {}
    column = next((key for key, feature in features.items() if isinstance(feature, datasets.Image)), None)
    if column is None:
        raise ImageStreamError(f"{name!r} has no column of images, but {', '.join(features) or 'none that is known'}.")
    rows = rows.cast_column(column, datasets.Image(decode=False))
    if isinstance(rows, datasets.Dataset):
        rows = rows.select(range(min(len(rows), limit))) if limit is not None else rows
        return ImageStream(rows, column, len(rows))
    info = (rows.info.splits or {}).get(split)
    total = info.num_examples if info is not None and info.num_examples else None
    if limit is not None:
        rows, total = rows.take(limit), limit if total is None else min(limit, total)
    return ImageStream(rows, column, total)


__all__ = ["ImageStream", "ImageStreamError", "StreamedImage", "open_images"]
