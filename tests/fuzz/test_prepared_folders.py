"""Prepared folders with damaged records and shards: all of their rows, or `PreparedFolderError`."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
import pytest
from datasets import disable_progress_bars
from PIL import Image

from pixelllm_hf.data import prepare_format, read_prepared, shard_reading
from pixelllm_hf.data.prepared_folder import PreparedFolderError


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    disable_progress_bars()
    folder = tmp_path_factory.mktemp("prepared")
    (folder / "images").mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (4, 16, 20, 3), np.uint8)
    for n in range(4):
        Image.fromarray(noise[n]).save(folder / "images" / f"{n}.png")
    images = [{"id": n, "file_name": f"{n}.png", "width": 20, "height": 16} for n in range(4)]
    captions = [{"image_id": n, "caption": "a car"} for n in range(4)]
    (folder / "captions.json").write_text(json.dumps({"images": images, "annotations": captions}))
    prepare_format("coco_captions", folder / "captions.json", folder / "images", folder / "whole", rows_per_shard=2)
    return folder


def test_damaged_folders_are_refused_or_give_all_rows(fuzz, fuzz_inputs, prepared):
    whole = prepared / "whole"
    state = json.loads((whole / "preparation.json").read_text())
    shards = sorted(state["shards"])

    def other_columns(chance: random.Random) -> bytes:
        table = pq.read_table(whole / shards[0])
        name = chance.choice(table.column_names)
        if chance.random() < 0.5:
            table = table.drop_columns([name])
        else:
            table = table.set_column(table.column_names.index(name), name, pa.array([7] * len(table)))
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink)
        return sink.getvalue().to_pybytes()

    def make(chance: random.Random) -> Any:
        kind = chance.random()
        if kind < 0.5:
            record = fuzz.as_json(fuzz.damaged(state, chance))
            return "preparation.json", fuzz.damaged_bytes(record, chance) if chance.random() < 0.2 else record
        name = chance.choice(shards)
        return name, other_columns(chance) if kind < 0.6 else fuzz.damaged_bytes((whole / name).read_bytes(), chance)

    def attempt(value: Any) -> None:
        name, content = value
        folder = prepared / "damaged"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(whole, folder)
        (folder / name).write_bytes(content)
        rows = read_prepared(folder, streaming=True)
        ids = [row["image_id"] for row in rows]
        fuzz.must(ids == ["0", "1", "2", "3"], f"rows {ids}")

    fuzz.run(attempt, make, fuzz_inputs, typed=[PreparedFolderError], megabytes=512).check()


@pytest.mark.parametrize("streaming", [True, False])
def test_a_shard_that_gives_fewer_rows_than_its_footer_counts_is_damaged(prepared, monkeypatch, streaming):
    # One flipped bit of a footer makes Arrow say that a group has no rows, and no checksum covers it.
    monkeypatch.setattr(pq.ParquetFile, "iter_batches", lambda *given, **options: iter(()))
    monkeypatch.setattr(shard_reading, "load_dataset", lambda *given, **options: [])
    with pytest.raises(PreparedFolderError, match="0 rows of 2"):
        list(read_prepared(prepared / "whole", streaming=streaming))
