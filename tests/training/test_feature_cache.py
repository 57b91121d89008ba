"""Features of frozen towers, looked up instead of computed."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from PIL import Image

from pixelllm_hf.data.parquet_shards import prepare_format
from pixelllm_hf.modeling.configuration_pixelllm import PixelLLMConfig
from pixelllm_hf.modeling.modeling_pixelllm import PixelLLMForGroundedGeneration
from pixelllm_hf.training.build_model import load_processor
from pixelllm_hf.training.cacheable_images import ImageFiles
from pixelllm_hf.training.config import ConfigError
from pixelllm_hf.training.feature_cache import CachedFeatureBatches, FeatureMaker, FeaturePart
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
    folder = str(cache_dir) if cache_dir else None
    data = DataConfig([replace(source, **settings)], batch_size=3, cache_dir=folder, cache_features=True)
    processor = load_processor(str(tokenizer_folder), image_size=model.config.image_size)
    plain = grounded_batches(data.sources, data, processor=processor, seed=1)
    vision = model.config.vision_config
    maker = FeatureMaker(model.vision_towers, ("fused", vision.mask_map), Accelerator(cpu=True), threads=1)
    return CachedFeatureBatches(plain, maker, data.cache_dir)


@pytest.mark.parametrize("flip", [0.0, 1.0], ids=["as it is", "mirrored"])
def test_the_loss_with_cached_features_is_the_loss_with_pixels(
    model: PixelLLMForGroundedGeneration, squares: SimpleNamespace, tokenizer_folder: Path, tmp_path: Path, flip: float
) -> None:
    cached = batches(model, squares, tokenizer_folder, tmp_path, flip=flip)
    source = SourceConfig("localized_narratives", str(squares.narratives), str(squares.images), flip=flip)
    data = DataConfig([source], batch_size=3, cache_dir=None)
    processor = load_processor(str(tokenizer_folder), image_size=model.config.image_size)
    plain = grounded_batches([source], data, processor=processor, seed=1)
    for index in range(3):
        batch, other = cached.batch_at(index), plain.batch_at(index)
        assert batch.pop("source") == other.pop("source")
        with torch.no_grad():
            looked_up, seen = model(**batch).loss, model(**other).loss
        torch.testing.assert_close(looked_up, seen, rtol=2e-3, atol=2e-3)


def test_sources_of_the_same_images_share_their_features(
    model: PixelLLMForGroundedGeneration, squares: SimpleNamespace, tokenizer_folder: Path, tmp_path: Path
) -> None:
    batches(model, squares, tokenizer_folder, tmp_path, limit=5)
    few = {folder.name: FeaturePart(folder).images for folder in tmp_path.glob("features-*/part-*")}
    batches(model, squares, tokenizer_folder, tmp_path)
    batches(model, squares, tokenizer_folder, tmp_path, name="again", flip=0.5)
    parts = {folder.name: FeaturePart(folder).images for folder in tmp_path.glob("features-*/part-*")}
    assert sorted(map(len, few.values())) == [5] and sorted(map(len, parts.values())) == [5, 7]
    assert len({image for part in parts.values() for image in part}) == 12


def test_an_image_that_cannot_be_read_is_named(
    model: PixelLLMForGroundedGeneration, squares: SimpleNamespace, tokenizer_folder: Path, tmp_path: Path
) -> None:
    images = tmp_path / "images"
    shutil.copytree(squares.images, images)
    broken = sorted(images.iterdir())[3]
    broken.write_bytes(b"no image")
    source = {"format": "coco_instances", "task": "region", "annotations": str(squares.instances)}
    with pytest.raises(ConfigError, match=broken.name):
        batches(model, squares, tokenizer_folder, tmp_path / "cache", images=str(images), **source)
    shutil.copy(squares.images / broken.name, broken)
    batches(model, squares, tokenizer_folder, tmp_path / "cache", images=str(images), **source)


def test_annotations_of_another_shape_of_image_are_refused(
    model: PixelLLMForGroundedGeneration, squares: SimpleNamespace, tokenizer_folder: Path, tmp_path: Path
) -> None:
    images = tmp_path / "images"
    shutil.copytree(squares.images, images)
    first = sorted(images.iterdir())[0]
    Image.open(first).crop((0, 0, 40, 64)).save(first)
    instances = {"format": "coco_instances", "task": "region", "annotations": str(squares.instances)}
    with pytest.raises(ConfigError, match=first.name):
        batches(model, squares, tokenizer_folder, tmp_path / "cache", images=str(images), **instances)


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
    first = {folder: (folder / "info.json").stat().st_mtime_ns for folder in tmp_path.glob("features-*/part-*")}
    batches(model, squares, tokenizer_folder, tmp_path)
    assert {folder: (folder / "info.json").stat().st_mtime_ns for folder in tmp_path.glob("features-*/part-*")} == first
    other = PixelLLMForGroundedGeneration(model.config)
    freeze(other, ["vision_towers"])
    batches(other, squares, tokenizer_folder, tmp_path)
    assert len(list(tmp_path.glob("features-*"))) == len(first) + 1 == 2


def test_features_outlive_a_copy_of_the_images_and_are_not_taken_for_those_of_others(
    model: PixelLLMForGroundedGeneration, squares: SimpleNamespace, tokenizer_folder: Path, tmp_path: Path
) -> None:
    instances: dict[str, Any] = {"format": "coco_instances", "task": "region", "annotations": str(squares.instances)}

    def made(folder: Path) -> tuple[CachedFeatureBatches, int]:
        cached = batches(model, squares, tokenizer_folder, tmp_path / "cache", images=str(folder), **instances)
        parts = (tmp_path / "cache").glob("features-*/part-*")
        return cached, sum(len(FeaturePart(part).images) for part in parts)

    first, number = made(squares.images)
    copied = Path(shutil.copytree(squares.images, tmp_path / "copied", copy_function=shutil.copyfile))
    again, still = made(copied)
    assert still == number
    assert torch.equal(first.batch_at(0)["image_features"].fused, again.batch_at(0)["image_features"].fused)

    changed, other, *_ = sorted(copied.iterdir())
    content, stamp = Image.open(changed), changed.stat()
    content.transpose(Image.Transpose.ROTATE_180).save(changed)
    os.utime(changed, ns=(stamp.st_atime_ns, stamp.st_mtime_ns + 1))
    assert made(copied)[1] == number + 1  # another image at the same place
    other.unlink()
    shutil.copyfile(changed, other)
    assert made(copied)[1] == number + 1  # one that is known, at the place of another


def test_a_file_that_was_seen_is_not_read_again_to_know_it(
    model: PixelLLMForGroundedGeneration,
    squares: SimpleNamespace,
    tokenizer_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    batches(model, squares, tokenizer_folder, tmp_path)
    monkeypatch.setattr(ImageFiles, "content", lambda images, place: pytest.fail("read"))
    batches(model, squares, tokenizer_folder, tmp_path)


def test_a_cache_of_an_earlier_version_is_known_by_what_it_wrote(
    model: PixelLLMForGroundedGeneration, squares: SimpleNamespace, tokenizer_folder: Path, tmp_path: Path
) -> None:
    """Its parts named images by path, size and time."""
    cached = batches(model, squares, tokenizer_folder, tmp_path)
    (seen,) = tmp_path.glob("features-*/seen-*.json")
    former = {content: stamp for stamp, content in json.loads(seen.read_text()).items()}
    seen.unlink()
    (info,) = tmp_path.glob("features-*/part-*/info.json")
    written = json.loads(info.read_text())
    info.write_text(json.dumps(written | {"images": [former[image] for image in written["images"]]}))
    again = batches(model, squares, tokenizer_folder, tmp_path)
    assert len(list(tmp_path.glob("features-*/part-*"))) == 1
    assert torch.equal(cached.batch_at(1)["image_features"].fused, again.batch_at(1)["image_features"].fused)


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
    (folder,) = tmp_path.glob("features-*/part-*")
    half = folder.rename(folder.with_name(f".{folder.name}.0123.tmp"))
    (half / "fused.f16").write_bytes(b"half written")
    again = batches(model, squares, tokenizer_folder, tmp_path).batch_at(0)["image_features"].fused
    assert torch.equal(again, whole)
    assert not half.exists()


def test_a_damaged_cache_is_an_error_that_names_it(
    model: PixelLLMForGroundedGeneration, squares: SimpleNamespace, tokenizer_folder: Path, tmp_path: Path
) -> None:
    batches(model, squares, tokenizer_folder, tmp_path)
    (folder,) = tmp_path.glob("features-*/part-*")
    (folder / "fused.f16").write_bytes(b"cut")
    with pytest.raises(ConfigError, match=folder.name):
        batches(model, squares, tokenizer_folder, tmp_path)


def test_images_that_change_their_size_are_refused(
    model: PixelLLMForGroundedGeneration, squares: SimpleNamespace, tokenizer_folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="scale"):
        batches(model, squares, tokenizer_folder, tmp_path, scale=(0.75, 1.25))


def test_towers_that_train_are_refused(squares: SimpleNamespace, tokenizer_folder: Path, tmp_path: Path) -> None:
    training = PixelLLMForGroundedGeneration(PixelLLMConfig.for_tests())
    with pytest.raises(ConfigError, match="model.freeze"):
        batches(training, squares, tokenizer_folder, tmp_path)


def test_features_need_a_folder(
    model: PixelLLMForGroundedGeneration, squares: SimpleNamespace, tokenizer_folder: Path
) -> None:
    with pytest.raises(ConfigError, match="cache_dir"):
        batches(model, squares, tokenizer_folder, None)
