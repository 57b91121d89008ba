"""Features of frozen towers, looked up instead of computed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate import Accelerator

from pixelllm_hf.data.parquet_shards import prepare_format
from pixelllm_hf.modeling.configuration_pixelllm import PixelLLMConfig
from pixelllm_hf.modeling.modeling_pixelllm import PixelLLMForGroundedGeneration
from pixelllm_hf.training.config import ConfigError
from pixelllm_hf.training.feature_cache import CachedFeatureBatches
from pixelllm_hf.training.initial_model import load_processor
from pixelllm_hf.training.parameter_groups import freeze
from pixelllm_hf.training.sources import DataConfig, SourceConfig, grounded_batches


@pytest.fixture(scope="module")
def model() -> PixelLLMForGroundedGeneration:
    torch.manual_seed(0)
    model = PixelLLMForGroundedGeneration(PixelLLMConfig.for_tests())
    freeze(model, ["vision_towers"])
    return model


def batches(
    model: Any, squares: SimpleNamespace, tokenizer_folder: Path, cache_dir: Path | None, **settings: Any
) -> CachedFeatureBatches:
    source = SourceConfig("localized_narratives", str(squares.narratives), str(squares.images))
    data = DataConfig([replace(source, **settings)], batch_size=3, cache_dir=str(cache_dir) if cache_dir else None)
    processor = load_processor(str(tokenizer_folder), image_size=model.config.image_size)
    plain = grounded_batches(data.sources, data, processor=processor, seed=1)
    return CachedFeatureBatches(plain, model.vision_towers, data.cache_dir, Accelerator(cpu=True))


def test_the_loss_with_cached_features_is_the_loss_with_pixels(
    model: PixelLLMForGroundedGeneration, squares: SimpleNamespace, tokenizer_folder: Path, tmp_path: Path
) -> None:
    cached = batches(model, squares, tokenizer_folder, tmp_path)
    for index in range(3):
        batch = cached.batch_at(index)
        batch.pop("source")
        with torch.no_grad():
            looked_up = model(**batch).loss
            batch.pop("image_features")
            seen = model(**batch).loss
        torch.testing.assert_close(looked_up, seen, rtol=2e-3, atol=2e-3)


def test_a_prepared_source_has_cached_features_too(
    model: PixelLLMForGroundedGeneration, squares: SimpleNamespace, tokenizer_folder: Path, tmp_path: Path
) -> None:
    prepare_format("localized_narratives", squares.narratives, squares.images, tmp_path / "rows", rows_per_shard=5)
    inside: dict[str, Any] = {"format": "prepared", "annotations": str(tmp_path / "rows"), "images": ""}
    cached = batches(model, squares, tokenizer_folder, tmp_path / "b", name="one", **inside)
    of_files = batches(model, squares, tokenizer_folder, tmp_path / "a", name="one")
    for index in range(3):
        batch, other = cached.batch_at(index), of_files.batch_at(index)
        assert torch.equal(batch["image_features"].fused, other["image_features"].fused)
        assert torch.equal(batch["labels"], other["labels"])


def test_features_are_kept_for_the_same_weights_and_made_anew_for_others(
    model: PixelLLMForGroundedGeneration, squares: SimpleNamespace, tokenizer_folder: Path, tmp_path: Path
) -> None:
    batches(model, squares, tokenizer_folder, tmp_path)
    first = {folder: (folder / "shapes.json").stat().st_mtime_ns for folder in tmp_path.glob("features-*")}
    batches(model, squares, tokenizer_folder, tmp_path)
    assert {folder: (folder / "shapes.json").stat().st_mtime_ns for folder in tmp_path.glob("features-*")} == first
    other = PixelLLMForGroundedGeneration(model.config)
    freeze(other, ["vision_towers"])
    batches(other, squares, tokenizer_folder, tmp_path)
    assert len(list(tmp_path.glob("features-*"))) == len(first) + 1 == 2


def test_other_maps_of_the_same_weights_are_other_features(
    model: PixelLLMForGroundedGeneration, squares: SimpleNamespace, tokenizer_folder: Path, tmp_path: Path
) -> None:
    both = batches(model, squares, tokenizer_folder, tmp_path).batch_at(0)["image_features"]
    values = model.config.to_dict()
    values["vision_config"] |= {"fused_maps": ["sam"], "mask_map": "fused"}
    other = PixelLLMForGroundedGeneration(PixelLLMConfig(**values))
    other.vision_towers.load_state_dict(model.vision_towers.state_dict())
    freeze(other, ["vision_towers"])
    one = batches(other, squares, tokenizer_folder, tmp_path).batch_at(0)["image_features"]
    assert both.fused.shape[-1] == 40 and set(both.maps) == {"sam"}
    assert one.fused.shape[-1] == 16 and not one.maps


def test_a_build_that_was_killed_is_done_again(
    model: PixelLLMForGroundedGeneration, squares: SimpleNamespace, tokenizer_folder: Path, tmp_path: Path
) -> None:
    whole = batches(model, squares, tokenizer_folder, tmp_path).batch_at(0)["image_features"].fused
    (folder,) = tmp_path.glob("features-*")
    half = folder.rename(folder.with_name(f".{folder.name}.0123.tmp"))
    (half / "fused.f16").write_bytes(b"half written")
    again = batches(model, squares, tokenizer_folder, tmp_path).batch_at(0)["image_features"].fused
    assert torch.equal(again, whole)
    assert not half.exists()


def test_a_damaged_cache_is_an_error_that_names_it(
    model: PixelLLMForGroundedGeneration, squares: SimpleNamespace, tokenizer_folder: Path, tmp_path: Path
) -> None:
    batches(model, squares, tokenizer_folder, tmp_path)
    (folder,) = tmp_path.glob("features-*")
    (folder / "fused.f16").write_bytes(b"cut")
    with pytest.raises(ConfigError, match=folder.name):
        batches(model, squares, tokenizer_folder, tmp_path)


@pytest.mark.parametrize(
    ("settings", "named"), [({"flip": 0.5}, "flip"), ({"scale": (0.75, 1.25)}, "scale")], ids=["flip", "scale"]
)
def test_pictures_that_change_are_refused(
    model: PixelLLMForGroundedGeneration,
    squares: SimpleNamespace,
    tokenizer_folder: Path,
    tmp_path: Path,
    settings: dict[str, Any],
    named: str,
) -> None:
    with pytest.raises(ConfigError, match=named):
        batches(model, squares, tokenizer_folder, tmp_path, **settings)


def test_towers_that_train_are_refused(squares: SimpleNamespace, tokenizer_folder: Path, tmp_path: Path) -> None:
    training = PixelLLMForGroundedGeneration(PixelLLMConfig.for_tests())
    with pytest.raises(ConfigError, match="model.freeze"):
        batches(training, squares, tokenizer_folder, tmp_path)


def test_features_need_a_folder(
    model: PixelLLMForGroundedGeneration, squares: SimpleNamespace, tokenizer_folder: Path
) -> None:
    with pytest.raises(ConfigError, match="cache_dir"):
        batches(model, squares, tokenizer_folder, None)
