"""One way of opening annotation files: plain or gzipped, with a byte-order mark or without, JSON or JSONL.

Bytes that are not UTF-8 do not end the reading: they come as lone surrogates, which `record_fields.checked_string`
refuses in the record that has them. What a file claims is bounded: a gzipped file by how far it may expand, a line by
its length, a number by its digits.
"""

from __future__ import annotations

import codecs
import gzip
import io
import json
import math
import stat
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from pixelllm_hf.data.bad_records import AnnotationFileError, BadRecordError, OnError, ReadReport

MAX_FILE = 1 << 34  # bytes: a sparse file claims any size
MAX_LINE = 1 << 26  # bytes
# A gzipped file may expand to this many bytes, or by this factor where it is larger; annotations gain 5 to 20.
_MAX_EXPANDED, _MAX_FACTOR = 1 << 28, 100

_OTHER_ARCHIVES = {
    b"PK\x03\x04": "zip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
    b"7z\xbc\xaf": "7z",
    b"(\xb5/\xfd": "zstd",
}
_WIDE_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",  # before UTF-16's, which it begins with
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_DAMAGED = (EOFError, zlib.error, gzip.BadGzipFile)


def load_json(path: str | Path, kind: type) -> Any:
    """The parsed file, whose outermost value must be a `kind` (list or dict). Raises `AnnotationFileError`."""
    try:
        content = _parsed(_decoded(read_bytes(path)))
    except ValueError as error:
        if isinstance(error, AnnotationFileError):
            raise
        raise AnnotationFileError(f"{path} is not JSON ({error}). Was it downloaded whole?") from error
    if not isinstance(content, kind):
        raise AnnotationFileError(f"{path} must hold a {kind.__name__}, but it holds a {type(content).__name__}.")
    return content


def read_records(
    path: str | Path, report: ReadReport, on_error: OnError, *, noun: str = "record"
) -> Iterator[tuple[str, Any]]:
    """Where it is and what it is, for every entry of a JSON list or every line of a JSONL file.

    Which of the two it is, the suffix says (.jsonl, .ndjson, perhaps with .gz) or else its first character. A line that
    is not JSON is dropped alone.
    """
    if not holds_lines(path):
        for index, record in enumerate(load_json(path, list)):
            yield f"{path}, {noun} {index}", record
        return
    for where, line in read_lines(path, report, on_error):
        if not line.strip():
            continue
        try:
            record = _parsed(line)
        except ValueError as error:
            bad = BadRecordError("not JSON", where, f"the line is not JSON ({error}).", "Is the file complete?")
            report.drop(bad, on_error)
            continue
        yield where, record


def holds_lines(path: str | Path) -> bool:
    """Whether the file is JSONL: one value a line."""
    if {".jsonl", ".ndjson"} & {suffix.lower() for suffix in Path(path).suffixes[-2:]}:
        return True
    return first_character(path) == "{"


def first_character(path: str | Path) -> str:
    """The first one that is no blank, of the text; empty where there is none in the first bytes."""
    with open_annotations(path) as stream:
        return _decoded(stream.read(1024)).strip()[:1]


def read_bytes(path: str | Path) -> bytes:
    """The whole content, expanded if it is gzipped."""
    pieces = []
    with open_annotations(path) as stream:
        while piece := stream.read(1 << 22):
            pieces.append(piece)
            _check_expansion(stream, path)
    return b"".join(pieces)


@contextmanager
def open_annotations(path: str | Path) -> Iterator[BinaryIO]:
    """The file open for reading its bytes, expanded if it is gzipped.

    Missing files raise `FileNotFoundError`; folders, pipes, other archives and damaged ones `AnnotationFileError`.
    """
    try:
        about = Path(path).stat()
    except FileNotFoundError as error:
        raise FileNotFoundError(f"the annotation file {str(path)!r} does not exist. Check the path.") from error
    except (OSError, ValueError) as error:  # no permission, a name that no file can have
        raise AnnotationFileError(f"{str(path)!r} cannot be opened ({error}). Check the path.") from error
    if not stat.S_ISREG(about.st_mode):
        what = "a folder" if stat.S_ISDIR(about.st_mode) else "no regular file"
        raise AnnotationFileError(f"{str(path)!r} is {what}; give the annotation file.")
    if about.st_size > MAX_FILE:
        raise AnnotationFileError(f"{path} has {about.st_size} bytes, above the limit of {MAX_FILE}. Split it.")
    try:
        with open(path, "rb") as plain:
            start = plain.read(8)
            plain.seek(0)
            for mark, archive in _OTHER_ARCHIVES.items():
                if start.startswith(mark):
                    raise AnnotationFileError(f"{path} is a {archive} archive; unpack it, or compress it with gzip.")
            if start.startswith(b"\x1f\x8b"):
                with gzip.open(plain) as expanded:
                    yield expanded  # type: ignore[misc]
            else:
                yield plain
    except _DAMAGED as error:
        raise AnnotationFileError(f"{path} is a damaged gzip file ({error}). Download it again.") from error


def _check_expansion(stream: BinaryIO, path: str | Path) -> None:
    if not isinstance(stream, gzip.GzipFile):
        return
    packed, expanded = Path(path).stat().st_size, stream.tell()
    if expanded > max(_MAX_EXPANDED, _MAX_FACTOR * packed):
        raise AnnotationFileError(
            f"{path} expands from {packed} bytes to more than {expanded}, which no annotations do. Expand it yourself "
            "if you trust it."
        )


def read_lines(path: str | Path, report: ReadReport, on_error: OnError) -> Iterator[tuple[str, str]]:
    """Where it is and its text, for every line. A file that is damaged further on ends there, as a bad record."""
    number = 0
    with open_annotations(path) as stream:
        if stream.read(4).startswith(tuple(_WIDE_MARKS)):
            stream = io.BytesIO(_decoded(read_bytes(path)).encode("utf-8", "surrogatepass"))
        stream.seek(0)
        while True:
            number += 1
            where = f"{path}, line {number}"
            try:
                line = stream.readline(MAX_LINE)
                overlong = len(line) == MAX_LINE and not line.endswith(b"\n")
                while overlong and (more := stream.readline(MAX_LINE)) and not more.endswith(b"\n"):
                    _check_expansion(stream, path)
                _check_expansion(stream, path)
            except _DAMAGED as error:
                bad = BadRecordError(
                    "file cut short", where, f"the gzip file is damaged ({error}).", "Download it again."
                )
                report.drop(bad, on_error)
                return
            if not line:
                return
            if overlong:
                problem = f"the line has more than {MAX_LINE} bytes."
                report.drop(BadRecordError("overlong line", where, problem, "Split it."), on_error)
                continue
            yield where, _decoded(line)


def _decoded(content: bytes) -> str:
    for mark, encoding in _WIDE_MARKS.items():
        if content.startswith(mark):
            return content.decode(encoding, "replace")
    return content.decode("utf-8-sig", "surrogateescape")


def _parsed(text: str) -> Any:
    """The value; what is not JSON is a `ValueError` with the reason."""
    try:
        try:
            return json.loads(text)
        except json.JSONDecodeError:
            raise
        except ValueError:  # a number of more digits than Python reads: no number that anything could use
            return json.loads(text, parse_int=lambda digits: int(digits) if len(digits) < 400 else math.inf)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
