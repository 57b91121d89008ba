"""Sources of a recipe and the shared extraction of equal prompts."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from pixelllm_hf.training.config import ConfigError
from pixelllm_hf.training.initial_model import load_processor
from pixelllm_hf.training.sources import DataConfig, SourceConfig, grounded_batches


def sources(squares: SimpleNamespace) -> list[SourceConfig]:
    trace = SourceConfig("localized_narratives", str(squares.narratives), str(squares.images), name="trace")
    refer = SourceConfig(
        "referring_expressions", str(squares.refs), str(squares.images), instances=str(squares.instances), max_prompts=2
    )
    return [trace, refer]


def test_cached_and_decoded_batches_are_equal(squares: SimpleNamespace, tokenizer_folder: Path, tmp_path: Path) -> None:
    processor = load_processor(str(tokenizer_folder), image_size=48)
    batches = []
    for cache_dir in (None, str(tmp_path), str(tmp_path)):
        data = DataConfig(sources(squares), batch_size=3, cache_dir=cache_dir)
        batches.append(grounded_batches(data.sources, data, processor=processor, seed=1))
    for index in range(6):
        plain, first, again = (source.batch_at(index) for source in batches)
        assert plain.pop("source") == first["source"] == again["source"]
        for name, tensor in plain.items():
            torch.testing.assert_close(first[name], tensor, rtol=0, atol=0, equal_nan=True)
            torch.testing.assert_close(again[name], tensor, rtol=0, atol=0, equal_nan=True)
    assert not list(tmp_path.glob("rows-*/**/*.png"))


def test_a_cached_source_is_read_again_when_its_file_changes(
    squares: SimpleNamespace, tokenizer_folder: Path, tmp_path: Path
) -> None:
    processor = load_processor(str(tokenizer_folder), image_size=48)
    copy = tmp_path / "narratives.jsonl"
    lines = squares.narratives.read_text().splitlines()
    for count in (12, 5):
        copy.write_text("\n".join(lines[:count]) + "\n")
        source = SourceConfig("localized_narratives", str(copy), str(squares.images))
        notes: list[str] = []
        data = DataConfig([source], batch_size=2, cache_dir=str(tmp_path / "cache"))
        grounded_batches(data.sources, data, processor=processor, seed=0, notes=notes)
        assert notes == [f"localized_narratives: {count} images, kept {count}, dropped 0"]


def test_rows_of_one_image_become_one_example(squares: SimpleNamespace, tokenizer_folder: Path, tmp_path: Path) -> None:
    processor = load_processor(str(tokenizer_folder), image_size=48)
    twice = tmp_path / "twice.jsonl"
    twice.write_text(squares.narratives.read_text() * 2)
    source = SourceConfig("localized_narratives", str(twice), str(squares.images), max_prompts=2)
    data = DataConfig([source], batch_size=12, cache_dir=None)
    batch = grounded_batches([source], data, processor=processor, seed=0).batch_at(0)
    assert batch["prompt_mask"].tolist() == [[True, True]] * 12


def test_mistakes_in_a_source_name_it(squares: SimpleNamespace) -> None:
    with pytest.raises(ConfigError, match="needs 'instances'"):
        SourceConfig("referring_expressions", "refs.json", "images")
    with pytest.raises(ConfigError, match="format must be one of"):
        SourceConfig("coco_caption", "a", "b")
