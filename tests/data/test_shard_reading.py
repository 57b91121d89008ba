"""Damaged prepared folders are refused with the name of the shard or the field."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
import pytest
from datasets import Features, List

from pixelllm_hf.data import prepare_format, read_prepared
from pixelllm_hf.data.grounded_examples import GROUNDED_FEATURES, LATER_FIELDS
from pixelllm_hf.data.prepared_folder import PreparedFolder, PreparedFolderError

FIRST = "data/train-00000.parquet"


@pytest.fixture
def prepared(squares, tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    prepare_format("coco_captions", squares.captions, squares.images, tmp_path / "out", rows_per_shard=2)
    return tmp_path / "out"


def read(folder: Path, streaming: bool) -> int:
    return sum(1 for _ in read_prepared(folder, streaming=streaming, cache_dir=folder.parent / "cache"))


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[: len(content) // 2],
        lambda content: content[:400] + bytes(200) + content[600:],
        lambda content: content.replace(b"IDAT", b"IDAU", 1),
        lambda content: b"PAR1" * 5,
        lambda content: b"",
    ],
    ids=["cut", "zeros", "a byte of an image", "another file", "empty"],
)
def test_a_damaged_shard_is_named(prepared, damage, streaming):
    shard = prepared / FIRST
    shard.write_bytes(damage(shard.read_bytes()))
    with pytest.raises(PreparedFolderError, match=r"train-00000\.parquet"):
        read(prepared, streaming)


def test_a_shard_with_other_columns_or_rows_is_refused_before_reading(prepared):
    table = pq.read_table(prepared / FIRST)
    pq.write_table(table.drop_columns(["prompts"]), prepared / FIRST)
    with pytest.raises(PreparedFolderError, match="the column 'prompts' is not there"):
        read_prepared(prepared, streaming=True)
    pq.write_table(table.set_column(2, "width", table["image_id"]), prepared / FIRST)
    with pytest.raises(PreparedFolderError, match="the column 'width' is string, and not int32"):
        read_prepared(prepared, streaming=True)
    pq.write_table(table[:1], prepared / FIRST)
    with pytest.raises(PreparedFolderError, match="has 1 rows, and not 2"):
        read_prepared(prepared, streaming=True)


def lacking(value, names: tuple[str, ...]):
    """Features or values without the fields of these names, at any depth."""
    if isinstance(value, dict):
        return {name: lacking(one, names) for name, one in value.items() if name not in names}
    if isinstance(value, List):
        return List(lacking(value.feature, names))
    return [lacking(one, names) for one in value] if isinstance(value, list) else value


def as_version_1(folder: Path) -> None:
    """Make the folder what an earlier version has written."""
    schema = Features(lacking(dict(GROUNDED_FEATURES), LATER_FIELDS)).arrow_schema
    for shard in (folder / "data").iterdir():
        rows = lacking(pq.read_table(shard).to_pylist(), LATER_FIELDS)
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), shard, write_page_checksum=True)
    state = json.loads((folder / "preparation.json").read_text())
    (folder / "preparation.json").write_text(json.dumps({**state, "version": 1}))


@pytest.mark.parametrize("streaming", [False, True])
def test_a_folder_of_an_earlier_version_is_read_with_the_later_fields_unknown(squares, prepared, streaming):
    folder, cache = prepared.parent / "narratives", prepared.parent / "cache"
    prepare_format("localized_narratives", squares.narratives, squares.images, folder)
    now = list(read_prepared(folder, streaming=streaming, cache_dir=cache))
    as_version_1(folder)
    earlier = list(read_prepared(folder, streaming=streaming, cache_dir=cache / "other"))
    assert len(earlier) == 4 and lacking(earlier, LATER_FIELDS) == lacking(now, LATER_FIELDS)
    for row in earlier:
        for prompt in row["prompts"]:
            assert not prompt["targets"] and prompt["utterances"]
            assert all(utterance["visual"] is None for utterance in prompt["utterances"])


def test_a_shard_without_a_field_that_was_always_there_is_refused(prepared):
    rows = lacking(pq.read_table(prepared / FIRST).to_pylist(), ("text_loss",))
    schema = Features(lacking(dict(GROUNDED_FEATURES), ("text_loss",))).arrow_schema
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), prepared / FIRST)
    with pytest.raises(PreparedFolderError, match="the column 'prompts' is"):
        read_prepared(prepared, streaming=True)


@pytest.mark.parametrize(
    "name", ["../outside.parquet", "data/../../outside.parquet", "/tmp/outside.parquet", "data/a\\b.parquet", "x"]
)
def test_a_shard_outside_the_folder_is_not_followed(prepared, name):
    shutil.copy(prepared / FIRST, prepared.parent / "outside.parquet")
    state = json.loads((prepared / "preparation.json").read_text())
    state["shards"][name] = state["shards"].pop(FIRST)
    (prepared / "preparation.json").write_text(json.dumps(state))
    with pytest.raises(PreparedFolderError, match="a file data/NAME.parquet of the folder"):
        read_prepared(prepared)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"settings": {}}, "'split'"),
        ({"settings": None}, "settings"),
        ({"settings": {"split": "../x"}}, "no split has the name"),
        ({"settings": {"split": "train", "task": 7}}, "task must be a string"),
        ({"shards": 5}, "shards"),
        ({"shards": {FIRST: {"rows": "2"}}}, "train-00000"),
        ({"shards": {}}, "as many rows as it counts"),
        ({"counts": {"rows": -1, "prompts": 0}}, "counts"),
        ({"version": 3}, "version is 3"),
    ],
)
def test_a_record_that_is_not_as_it_was_written_is_refused_with_its_field(prepared, change, field):
    state = json.loads((prepared / "preparation.json").read_text())
    (prepared / "preparation.json").write_text(json.dumps({**state, **change}))
    with pytest.raises(PreparedFolderError, match=field) as caught:
        PreparedFolder.load(prepared)
    assert "preparation.json" in str(caught.value)
    (prepared / "preparation.json").write_text("{")
    with pytest.raises(PreparedFolderError, match=r"preparation\.json is not JSON"):
        PreparedFolder.load(prepared)


def test_each_shard_can_be_streamed_by_another_process(prepared):
    rows = read_prepared(prepared, streaming=True)
    assert rows.num_shards == 2
    assert [row["image_id"] for row in rows.shard(2, 1)] == ["3", "4"]
