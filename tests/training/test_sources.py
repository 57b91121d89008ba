"""Sources of a recipe and the shared extraction of equal prompts."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from datasets import concatenate_datasets
from PIL import Image

from pixelllm_hf.data.parquet_shards import prepare_format
from pixelllm_hf.data.prepared_folder import read_prepared
from pixelllm_hf.training.build_model import load_processor
from pixelllm_hf.training.config import ConfigError
from pixelllm_hf.training.sources import DataConfig, SourceConfig, SourceRows, grounded_batches


def sources(squares: SimpleNamespace) -> list[SourceConfig]:
    trace = SourceConfig("localized_narratives", str(squares.narratives), str(squares.images), name="trace")
    refer = SourceConfig(
        "referring_expressions", str(squares.refs), str(squares.images), instances=str(squares.instances), max_prompts=2
    )
    segment = replace(refer, name="segment", task="segment", flip=0.5)
    region = SourceConfig(
        "visual_genome", str(squares.regions), str(squares.images), image_data=str(squares.image_data), max_prompts=2
    )
    return [trace, refer, segment, region, replace(region, name="dense", task="dense")]


def test_cached_and_decoded_batches_are_equal(squares: SimpleNamespace, tokenizer_folder: Path, tmp_path: Path) -> None:
    processor = load_processor(str(tokenizer_folder), image_size=48)
    batches = []
    for cache_dir in (None, str(tmp_path), str(tmp_path)):
        data = DataConfig(sources(squares), batch_size=3, cache_dir=cache_dir)
        batches.append(grounded_batches(data.sources, data, processor=processor, seed=1))
    seen = set()
    for index in range(16):
        plain, first, again = (source.batch_at(index) for source in batches)
        seen.add(first["source"])
        assert plain.pop("source") == first["source"] == again["source"]
        for name, tensor in plain.items():
            torch.testing.assert_close(first[name], tensor, rtol=0, atol=0, equal_nan=True)
            torch.testing.assert_close(again[name], tensor, rtol=0, atol=0, equal_nan=True)
    assert seen == {"trace", "referring_expressions", "segment", "visual_genome", "dense"}
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


def test_a_source_s_task_decides_what_is_learned(squares: SimpleNamespace, tokenizer_folder: Path) -> None:
    processor = load_processor(str(tokenizer_folder), image_size=48)
    by_name = {}
    for source in sources(squares)[2:]:
        data = DataConfig([source], batch_size=2, cache_dir=None)
        by_name[source.name] = grounded_batches([source], data, processor=processor, seed=0).batch_at(0)
    assert by_name["segment"]["mask_labels"].shape == (4, 48, 48)
    assert by_name["dense"]["object_boxes"].shape == (2, 2, 4)
    assert "mask_labels" not in by_name["visual_genome"]
    assert "prompt_boxes" not in by_name["dense"]


def test_mistakes_in_a_source_name_it(squares: SimpleNamespace) -> None:
    with pytest.raises(ConfigError, match="needs 'instances'"):
        SourceConfig("referring_expressions", "refs.json", "images")
    with pytest.raises(ConfigError, match="format must be one of"):
        SourceConfig("coco_caption", "a", "b")
    with pytest.raises(ConfigError, match="can be read as task caption, but not as 'dense'"):
        SourceConfig("coco_captions", "a", "b", task="dense")
    with pytest.raises(ConfigError, match="has no splits"):
        SourceConfig("coco_captions", "a", "b", split="val")


def test_a_prepared_folder_trains_like_the_files_it_was_made_from(
    squares: SimpleNamespace, tokenizer_folder: Path, tmp_path: Path
) -> None:
    processor = load_processor(str(tokenizer_folder), image_size=48)
    prepare_format(
        "referring_expressions",
        squares.refs,
        squares.images,
        tmp_path / "rows",
        task="segment",
        companion=squares.instances,
        rows_per_shard=5,
    )
    _, refer, segment, *_ = (replace(source, name="one", flip=0.0) for source in sources(squares))
    for task, original in (("segment", segment), ("refer", refer)):
        prepared = SourceConfig("prepared", str(tmp_path / "rows"), task=task, name="one", max_prompts=2)
        notes: list[str] = []
        batches = []
        for source in (original, prepared):
            data = DataConfig([source], batch_size=3, cache_dir=str(tmp_path / "cache"))
            batches.append(grounded_batches([source], data, processor=processor, seed=4, notes=notes).batch_at(2))
        assert notes[1] == "one: 12 images, kept 12, dropped 0 when it was prepared"
        assert batches[0].keys() == batches[1].keys()
        for name, tensor in batches[0].items():
            if name != "source":
                torch.testing.assert_close(batches[1][name], tensor, rtol=0, atol=0, equal_nan=True)


def test_a_prepared_folder_that_is_none_is_a_mistake_of_the_recipe(squares: SimpleNamespace, tokenizer_folder) -> None:
    source = SourceConfig("prepared", str(squares.images), name="rows")
    with pytest.raises(ConfigError, match="Source 'rows': .* is no prepared data set"):
        grounded_batches([source], DataConfig([source]), processor=None, seed=0)
    with pytest.raises(ConfigError, match="needs 'images'"):
        SourceConfig("coco_captions", "captions.json")


def test_several_files_for_a_format_of_one_are_refused_by_the_recipe(squares: SimpleNamespace) -> None:
    with pytest.raises(ConfigError, match="takes one annotation file"):
        SourceConfig("coco_captions", ["a.json", "b.json"], str(squares.images))


def prepared(squares: SimpleNamespace, folder: Path, **settings: Any) -> SourceConfig:
    """The squares' expressions in a prepared folder."""
    if not folder.exists():
        options: dict[str, Any] = {"companion": squares.instances, "task": "segment", "rows_per_shard": 5}
        prepare_format("referring_expressions", squares.refs, squares.images, folder, **options)
    return SourceConfig("prepared", str(folder), name="one", max_prompts=2, **settings)


def test_a_prepared_source_has_its_pixels_in_the_cache_and_the_same_batches(
    squares: SimpleNamespace, tokenizer_folder: Path, tmp_path: Path
) -> None:
    processor = load_processor(str(tokenizer_folder), image_size=48)
    source = prepared(squares, tmp_path / "rows")
    made = []
    for cache_dir in (None, str(tmp_path / "cache"), str(tmp_path / "cache")):
        data = DataConfig([source], batch_size=5, cache_dir=cache_dir)
        made.append(grounded_batches([source], data, processor=processor, seed=2))
    caches = [batches.sources["one"].cache for batches in made]  # type: ignore[attr-defined]
    assert caches[0] is None and len(caches[1]) == 12 and len(list((tmp_path / "cache").glob("pixels-*"))) == 1
    for index in range(4):
        plain, first, again = (batches.batch_at(index) for batches in made)
        assert plain.pop("source") == first["source"] == again["source"]
        for name, tensor in plain.items():
            torch.testing.assert_close(first[name], tensor, rtol=0, atol=0, equal_nan=True)
            torch.testing.assert_close(again[name], tensor, rtol=0, atol=0, equal_nan=True)


def test_the_cache_of_a_prepared_source_goes_by_the_content_of_its_images(
    squares: SimpleNamespace, tokenizer_folder: Path, tmp_path: Path
) -> None:
    processor = load_processor(str(tokenizer_folder), image_size=48)
    images = tmp_path / "images"
    shutil.copytree(squares.images, images)
    changed = SimpleNamespace(**{**vars(squares), "images": images})
    Image.new("RGB", (80, 64), "white").save(images / "000000000003.png")
    kept = []
    for folder, own in (("rows", squares), ("moved", squares), ("changed", changed)):
        source = prepared(own, tmp_path / folder)
        data = DataConfig([source], batch_size=5, cache_dir=str(tmp_path / "cache"))
        cache = grounded_batches([source], data, processor=processor, seed=2).sources["one"].cache  # type: ignore[attr-defined]
        kept.append(cache.folder)
    assert kept[0] == kept[1] != kept[2]


def test_rows_with_the_same_image_inside_share_its_pixels(squares: SimpleNamespace, tmp_path: Path) -> None:
    rows = read_prepared(prepared(squares, tmp_path / "rows").annotations, cache_dir=tmp_path / "hf")
    twice = concatenate_datasets([rows, rows])
    own = SourceRows("one", twice, group_by_image=False, images_inside=True)
    own.cache_pixels(str(tmp_path / "cache"), canvas=32)
    assert own.cache is not None and len(own) == 24 and len(own.cache) == 12
    assert [own.cache_row(index) for index in range(24)] == 2 * list(range(12))
