from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from pixelllm_hf.files import sha256_of_files
from pixelllm_hf.safetensors_files import WeightsError, read_layout, sharded

TENSORS = {
    "a.weight": torch.arange(600, dtype=torch.float32).reshape(20, 30),
    "b.half": torch.arange(500, dtype=torch.bfloat16),
    "c.flags": torch.tensor([True, False, True]),
    "d.none": torch.zeros(0, 4),
    "e.single": torch.tensor(3.5),
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    save_file(TENSORS, tmp_path / "model.safetensors", metadata={"format": "pt"})
    return tmp_path / "model.safetensors"


def test_the_layout_is_read_without_the_tensors(file: Path):
    layout = read_layout(file)
    assert {name: tensor.shape for name, tensor in layout.items()} == {n: tuple(t.shape) for n, t in TENSORS.items()}
    assert layout["b.half"].dtype == "BF16" and layout["b.half"].num_bytes == 1000
    assert sum(tensor.num_values for tensor in layout.values()) == 1104


@pytest.mark.parametrize("limit", [1, 1500, 2500])
def test_shards_hold_the_same_tensors_to_the_bit(file: Path, tmp_path: Path, limit: int):
    written = sharded([file], tmp_path / "shards", max_shard_bytes=limit)
    assert written is not None
    *shards, index = written
    loaded = {name: tensor for shard in shards for name, tensor in load_file(shard).items()}
    assert loaded.keys() == TENSORS.keys()
    assert all(
        torch.equal(loaded[name], TENSORS[name]) and loaded[name].dtype == TENSORS[name].dtype for name in loaded
    )
    told = json.loads(index.read_text())
    assert told["weight_map"].keys() == TENSORS.keys() and told["metadata"]["total_parameters"] == 1104
    for shard in shards:
        with safe_open(shard, framework="pt") as opened:
            assert opened.metadata() == {"format": "pt"}
        assert sum(tensor.num_bytes for tensor in read_layout(shard).values()) <= max(limit, 2400)


def test_shards_are_shared_out_anew_and_small_files_left_alone(file: Path, tmp_path: Path):
    assert sharded([file], tmp_path / "none", max_shard_bytes=10_000) is None
    first = sharded([file], tmp_path / "first", max_shard_bytes=2500)
    assert first is not None
    second = sharded(first[:-1], tmp_path / "second", max_shard_bytes=1100)
    direct = sharded([file], tmp_path / "direct", max_shard_bytes=1100)
    assert second is not None and direct is not None
    for shards in (second, direct):
        assert {n for s in shards[:-1] for n in read_layout(s)} == TENSORS.keys()


def test_the_same_tensors_make_the_same_files(file: Path, tmp_path: Path):
    one, other = (sharded([file], tmp_path / name, max_shard_bytes=1500) for name in ("one", "other"))
    assert one is not None and other is not None
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in other]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda whole: whole[:-1], "announces"),
        (lambda whole: whole + b"x", "announces"),
        (lambda whole: whole[:40], "not a whole"),
        (lambda whole: b"", "not a whole"),
        (lambda whole: b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n", "not a whole"),
        (lambda whole: whole[:8] + b"x" + whole[9:], "damaged header"),
    ],
)
def test_a_damaged_file_is_noticed(file: Path, content, message: str):
    file.write_bytes(content(file.read_bytes()))
    with pytest.raises(WeightsError, match=message):
        read_layout(file)


def test_weights_are_named_as_evaluations_name_them(file: Path):
    from pixelllm_hf.evaluation.runner import weights_digest

    assert sha256_of_files([file]) == weights_digest(file.parent)
