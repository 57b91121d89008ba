"""Parquet shards of grounded rows, read so that a damaged one is named.

Their pages have checksums, which are compared whenever rows are read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.dataset as pds  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
from datasets import Dataset, load_dataset
from datasets.exceptions import DatasetsError

from pixelllm_hf.data.grounded_examples import GROUNDED_FEATURES, LATER_FIELDS

_ROWS_AT_ONCE = 16
_DAMAGED = (pa.ArrowException, OSError, ValueError, TypeError, KeyError, OverflowError)


class PreparedFolderError(ValueError):
    """The folder does not hold what is asked for, or is damaged."""


def check_shard(file: Path, *, rows: int | None = None, content: bool = False) -> None:
    """Refuse a shard that is not there, is none, has other columns than grounded rows, or another number of them.

    content: read it all and compare the checksums, else its footer alone is looked at. Raises `PreparedFolderError`.
    """
    if not file.is_file():
        raise PreparedFolderError(f"{str(file.parent.parent)!r} has lost {file.name!r}. Run the preparation again.")
    try:
        with pq.ParquetFile(file, page_checksum_verification=content) as shard:
            own, expected, number = shard.schema_arrow, GROUNDED_FEATURES.arrow_schema, shard.metadata.num_rows
            if content:
                _check_whole(number, sum(len(batch) for batch in shard.iter_batches(_ROWS_AT_ONCE)))
    except _DAMAGED as error:
        raise PreparedFolderError(_damage(file, error)) from error
    for field in expected:
        if own.get_field_index(field.name) < 0 or not _serves(own.field(field.name).type, field.type):
            there = own.field(field.name).type if own.get_field_index(field.name) >= 0 else "not there"
            raise PreparedFolderError(f"{str(file)!r}: the column {field.name!r} is {there}, and not {field.type}.")
    if rows not in (None, number):
        raise PreparedFolderError(f"{str(file)!r} has {number} rows, and not {rows}. Run the preparation again.")


def _check_whole(expected: int, found: int) -> None:
    """Checksums are those of pages alone: a footer may say of a group that it has no rows."""
    if found != expected:
        raise ValueError(f"it gives {found} rows of {expected}")


def _serves(own: pa.DataType, expected: pa.DataType) -> bool:
    """Whether a column of this type is as rows need it; structures in it may lack the fields that came later."""
    if own == expected:
        return True
    if pa.types.is_list(own) and pa.types.is_list(expected):
        return _serves(own.value_type, expected.value_type)
    if not (pa.types.is_struct(own) and pa.types.is_struct(expected)):
        return False
    there, wanted = ({field.name: field.type for field in kind} for kind in (own, expected))
    return there.keys() <= wanted.keys() <= {*there, *LATER_FIELDS} and all(
        _serves(there[name], wanted[name]) for name in there
    )


def _completed(value: Any, kind: pa.DataType) -> Any:
    """A value of a shard with the fields that it lacks of this type, as None."""
    if value is None or not pa.types.is_nested(kind):
        return value
    if pa.types.is_struct(kind):
        return {field.name: _completed(value.get(field.name), field.type) for field in kind}
    return [_completed(one, kind.value_type) for one in value]


def stream_shards(files: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The rows of these shards, one after the other; raises `PreparedFolderError` where one is damaged."""
    prompts = GROUNDED_FEATURES.arrow_schema.field("prompts").type
    for file in files:
        try:
            with pq.ParquetFile(file, page_checksum_verification=True) as shard:
                earlier, seen = shard.schema_arrow.field("prompts").type != prompts, 0
                for batch in shard.iter_batches(_ROWS_AT_ONCE, columns=list(GROUNDED_FEATURES)):
                    seen += len(batch)
                    for row in batch.to_pylist():
                        yield {**row, "prompts": _completed(row["prompts"], prompts)} if earlier else row
                _check_whole(shard.metadata.num_rows, seen)
        except _DAMAGED as error:
            raise PreparedFolderError(_damage(file, error)) from error


def load_shards(files: Sequence[str], split: str, cache_dir: str | Path | None, *, rows: int) -> Dataset:
    """The rows of these shards, mapped into memory from an uncompressed copy in `cache_dir`.

    rows: how many there are by the footers, which `check_shard` has looked at.
    """
    try:
        loaded = load_dataset(
            "parquet",
            data_files={split: list(files)},
            split=split,
            features=GROUNDED_FEATURES,
            fragment_scan_options=pds.ParquetFragmentScanOptions(page_checksum_verification=True),
            cache_dir=str(cache_dir) if cache_dir else None,
        )
        _check_whole(rows, len(loaded))
        return loaded
    except (DatasetsError, *_DAMAGED):
        for file in files:
            check_shard(Path(file), content=True)
        raise  # the shards are whole: a full disk, or no right to write there


def _damage(file: str | Path, error: Exception) -> str:
    return f"{str(file)!r} is damaged ({type(error).__name__}: {error!s:.200}). Run the preparation again."
