"""Answers about very many images, as parquet shards that several processes write and a kill does not harm.

Image number i belongs to shard i // shard_size, and a shard to one process by its number. A shard is there whole or not
at all, and its content does not depend on who writes it: nothing is lost or written twice, whoever goes on.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pixelllm_hf.files import atomic_path, atomic_text

_SHARD = re.compile(r"data-(\d{8})\.parquet")
SETTINGS, END = "annotations.json", "end.json"


class AnnotationError(ValueError):
    """A folder of annotations that answers another question, or a data set that is not the same for everybody."""


@dataclass(frozen=True)
class AnnotatedImage:
    """One image of a data set and the answers about it, or why there are none. index: from 0, in the data set."""

    index: int
    name: str
    results: Sequence[Any] = ()
    error: str | None = None

    def row(self) -> dict[str, Any]:
        """A row of `SCHEMA`."""
        size = self.results[0].image_size if self.results else (None, None)
        return {
            "index": self.index,
            "image": self.name,
            "width": size[0],
            "height": size[1],
            "error": self.error,
            "captions": [_caption(result) for result in self.results],
            "records": [json.dumps(result.to_dict()) for result in self.results],
        }


def schema() -> Any:
    """Of the shards. captions: for queries; points and boxes (xyxy) in pixels of the image, null where there are none.
    records: each answer whole, masks included, as `GroundedCaption.from_dict` reads it from JSON.
    """
    import pyarrow as pa

    numbers = pa.list_(pa.float32())
    word = pa.struct({"text": pa.string(), "point": numbers, "box": numbers, "score": pa.float32()})
    caption = pa.struct(
        {"text": pa.string(), "score": pa.float32(), "box": numbers, "box_score": pa.float32(), "words": pa.list_(word)}
    )
    return pa.schema(
        {
            "index": pa.int64(),
            "image": pa.string(),
            "width": pa.int32(),
            "height": pa.int32(),
            "error": pa.string(),
            "captions": pa.list_(caption),
            "records": pa.list_(pa.string()),
        }
    )


def _caption(result: Any) -> dict[str, Any]:
    record = result.to_dict()
    words = [{key: word[key] for key in ("text", "point", "box", "score")} for word in record["words"]]
    return {key: record[key] for key in ("text", "score", "box", "box_score")} | {"words": words}


class AnnotationShards:
    """The folder that the shards of one question about one data set lie in.

    settings: what was asked of which images, JSON values; a folder with others is an `AnnotationError`.
    """

    def __init__(self, folder: str | Path, settings: dict[str, Any], *, shard_size: int):
        self.folder, self.shard_size = Path(folder), shard_size
        if self.folder.exists() and not self.folder.is_dir():
            raise AnnotationError(f"{str(self.folder)!r} is a file, where a folder for shards is wanted. Name another.")
        self.folder.mkdir(parents=True, exist_ok=True)
        wanted = settings | {"shard_size": shard_size}
        if (self.folder / SETTINGS).is_file():
            found = self._read(SETTINGS)
            if found != wanted:
                differing = [f"{k} {found.get(k)!r} and not {v!r}" for k, v in wanted.items() if found.get(k) != v]
                raise AnnotationError(
                    f"{str(self.folder)!r} has annotations of another question: {', '.join(differing)}. Ask the same, "
                    "or name another folder."
                )
        elif any(self.folder.glob("data-*.parquet")):
            raise AnnotationError(f"{str(self.folder)!r} has shards but no {SETTINGS}. Name another folder.")
        else:
            with atomic_text(self.folder / SETTINGS) as file:
                file.write(json.dumps(wanted, indent=2))

    def path(self, shard: int) -> Path:
        return self.folder / f"data-{shard:08d}.parquet"

    def is_done(self, shard: int, count: int | None = None, names: Sequence[str] | None = None) -> bool:
        """Whether a shard is there, of so many images with these names where they are known.

        One that has fewer, since the data set has grown behind them, is not done. Other images are an
        `AnnotationError`: those of a data set whose order has changed would be lost or asked twice.
        """
        if not self.path(shard).is_file():
            return False
        held = self._held(shard)
        changed = next((pair for pair in zip(held, names or (), strict=False) if pair[0] != pair[1]), None)
        if changed is None and (count is None or len(held) <= count):
            return count is None or len(held) == count
        here, now = changed or (f"{len(held)} images", f"{count}")
        raise AnnotationError(
            f"{str(self.path(shard))!r} is about {here}, where the data set has {now} now: images have come or gone. "
            "Name another folder, or give back the former images."
        )

    def check_skipped(self, shard: int, count: int) -> None:
        """Raise an `AnnotationError` unless a shard of a stream is about as many images as were skipped for it."""
        if not self.is_done(shard, count):
            raise AnnotationError(
                f"{str(self.path(shard))!r} is about fewer images than the {count} that the data set has there now: it "
                f"has grown. Remove this file and {str(self.folder / END)!r}, and start again."
            )

    def _held(self, shard: int) -> list[str]:
        """Names of the images that a shard is about."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        path = self.path(shard)
        try:
            return pq.read_table(path, columns=["image"]).column("image").to_pylist()
        except (pa.ArrowInvalid, OSError) as error:
            problem = " ".join(str(error).split())[:200]
            raise AnnotationError(f"{str(path)!r} is damaged ({problem}). Remove it to write it anew.") from error

    def write(self, shard: int, images: Sequence[AnnotatedImage]) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        expected = range(shard * self.shard_size, shard * self.shard_size + len(images))
        assert [image.index for image in images] == list(expected), "a shard holds the images that follow each other"
        table = pa.Table.from_pylist([image.row() for image in images], schema=schema())
        try:
            with atomic_path(self.path(shard)) as temporary:
                pq.write_table(table, temporary)
        except OSError as error:  # a full disk, a quota
            raise OSError(
                f"{str(self.path(shard))!r} cannot be written ({' '.join(str(error).split())}). The shards that are "
                "there are whole: give the same command again to go on."
            ) from error

    def check_end(self, images: int) -> None:
        """Raise an `AnnotationError` if the data set had another number of images for another process."""
        if (self.folder / END).is_file():
            found = self._read(END).get("images")
            if found != images:
                raise AnnotationError(
                    f"the data set ended after {images} images here, but after {found} for another process or an "
                    f"earlier run. Is it still being written? Remove {str(self.folder / END)!r} if it has grown."
                )
        last = max((int(match[1]) for p in self.folder.iterdir() if (match := _SHARD.fullmatch(p.name))), default=-1)
        if last >= 0 and last * self.shard_size >= images:
            raise AnnotationError(
                f"{str(self.path(last))!r} is about images behind the {images} that the data set has: images have "
                "gone. Name another folder, or give back the former images."
            )

    def note_end(self, images: int) -> None:
        """That the data set has so many images; `AnnotationError` if it had another number for another process."""
        self.check_end(images)
        with atomic_text(self.folder / END) as file:
            file.write(json.dumps({"images": images}))

    def missing(self) -> list[int] | None:
        """The shards that are still to be written; None while nobody has come to the end of the data set."""
        if not (self.folder / END).is_file():
            return None
        images = int(self._read(END)["images"])
        return [shard for shard in range(-(-images // self.shard_size)) if not self.is_done(shard)]

    def remove_unfinished(self) -> None:
        """What killed processes have left; nobody may be writing."""
        for path in self.folder.glob(".data-*.tmp.parquet"):
            path.unlink(missing_ok=True)

    def _read(self, name: str) -> dict[str, Any]:
        try:
            content = json.loads((self.folder / name).read_text(encoding="utf-8"))
            if not isinstance(content, dict):
                raise ValueError(f"it holds a {type(content).__name__}")
            return content
        except ValueError as error:
            raise AnnotationError(f"{str(self.folder / name)!r} is damaged ({error}). Name another folder.") from error


def read_annotations(folder: str | Path) -> Iterator[AnnotatedImage]:
    """All images of a folder of shards, in the order of the data set."""
    import pyarrow.parquet as pq

    from pixelllm_hf.processing.grounded_results import GroundedCaption

    for path in sorted(Path(folder).glob("data-*.parquet")):
        for row in pq.read_table(path).to_pylist():
            results = tuple(GroundedCaption.from_dict(json.loads(record)) for record in row["records"])
            yield AnnotatedImage(row["index"], row["image"], results, row["error"])


__all__ = ["AnnotatedImage", "AnnotationError", "AnnotationShards", "read_annotations", "schema"]
