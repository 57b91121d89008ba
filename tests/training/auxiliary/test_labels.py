"""Dense labels, the pixel cache, and the towers' pre-training."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

from pixelllm_hf.modeling.configuration_pixelllm import PixelLLMConfig
from pixelllm_hf.modeling.modeling_pixelllm import PixelLLMForGroundedGeneration
from pixelllm_hf.processing.image_processing_pixelllm import PixelLLMImageProcessor
from pixelllm_hf.training.auxiliary.batches import ImageBatches
from pixelllm_hf.training.auxiliary.cell_heads import CellTaskConfig, PatchHeads
from pixelllm_hf.training.auxiliary.labels import image_labels
from pixelllm_hf.training.auxiliary.objective import TowerLearner
from pixelllm_hf.training.build_model import build_model
from pixelllm_hf.training.cacheable_images import ImageFiles
from pixelllm_hf.training.config import ConfigError
from pixelllm_hf.training.pixel_cache import CanvasReader, open_pixel_cache

Launcher = Callable[..., Any]


def test_labels_say_what_covers_each_cell(squares: SimpleNamespace, tmp_path: Path) -> None:
    labels = image_labels(squares.instances, squares.images, tmp_path, canvas=80, cells=40)
    coco = json.loads(squares.instances.read_text())
    assert labels.class_names == squares.names
    first = [a for a in coco["annotations"] if a["image_id"] == 1]
    expected = np.zeros((40, 40), int)
    expected[32:] = -1  # 80 x 64 pixels on a canvas of 80: the last fifth is padding
    for annotation in first:
        x, y, w, h = annotation["bbox"]
        pixels = ((np.arange(40) + 0.5) * 2).astype(int)  # those that hold the cells' centres
        inside = ((pixels >= y) & (pixels < y + h))[:, None] & ((pixels >= x) & (pixels < x + w))
        expected[inside] = annotation["category_id"]
        assert (labels.boxes[0][:, inside] == np.array([[x], [y], [x + w], [y + h]])).all()
    assert np.array_equal(labels.labels[0], expected)


def test_a_mirrored_image_has_mirrored_labels_and_boxes(squares: SimpleNamespace, tmp_path: Path) -> None:
    labels = image_labels(squares.instances, squares.images, tmp_path, canvas=80, cells=20)
    cache = open_pixel_cache(ImageFiles(labels.image_files), tmp_path, canvas=80, read=CanvasReader(80))
    rows = np.arange(1)
    plain = ImageBatches(cache, labels, rows, batch_size=1, seed=0).batch_at(0)
    flipping = ImageBatches(cache, labels, rows, batch_size=1, seed=0, flip=True)
    mirrored = next(b for b in map(flipping.batch_at, range(99)) if not b["labels"].equal(plain["labels"]))
    assert torch.equal(mirrored["pixel_values"], plain["pixel_values"].flip(-1))
    assert torch.equal(mirrored["labels"], plain["labels"].flip(-1))
    there = plain["labels"][:, 0] > 0
    x0, y0, x1, y1 = plain["boxes"][:, :, there[0]].unbind(1)
    expected = torch.stack([1 - x1, y0, 1 - x0, y1], dim=1)
    torch.testing.assert_close(mirrored["boxes"].flip(-1)[:, :, there[0]], expected)


def test_labels_are_made_once_and_again_when_the_file_changes(squares: SimpleNamespace, tmp_path: Path) -> None:
    instances = tmp_path / "instances.json"
    instances.write_text(squares.instances.read_text())
    for text in (instances.read_text(), instances.read_text().replace('"red"', '"rosy"')):
        instances.write_text(text)
        for _ in range(2):
            labels = image_labels(instances, squares.images, tmp_path, canvas=80, cells=20)
    assert len(list(tmp_path.glob("image-labels-*.npz"))) == 2
    assert "rosy" in labels.class_names


def test_cached_pixels_are_the_processors(squares: SimpleNamespace, tmp_path: Path) -> None:
    files = sorted(squares.images.iterdir())[:3]
    cache = open_pixel_cache(ImageFiles(files), tmp_path, canvas=48, read=CanvasReader(48))
    processor = PixelLLMImageProcessor(size={"height": 48, "width": 48})
    expected = processor([str(file) for file in files], return_tensors="np")
    assert np.array_equal(cache.pixels.transpose(0, 3, 1, 2).astype(np.float32), expected["pixel_values"])
    assert np.array_equal(cache.pixel_mask(range(3)), expected["pixel_mask"])
    assert np.array_equal(cache.original_sizes_hw, expected["original_sizes"])
    assert cache.row(str(files[2])) == 2 and cache.row(str(tmp_path / "other.png")) is None


def test_an_unreadable_image_is_counted_not_fatal(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8), "red").save(tmp_path / "good.png")
    (tmp_path / "bad.png").write_bytes(b"not an image")
    files = [tmp_path / "good.png", tmp_path / "bad.png"]
    cache = open_pixel_cache(ImageFiles(files), tmp_path / "c", canvas=16, read=CanvasReader(16))
    assert list(cache.bad) == [str(tmp_path / "bad.png")]
    assert cache.sizes_hw.tolist() == [[16, 16], [0, 0]]


def test_batches_are_a_function_of_their_number(squares: SimpleNamespace, tmp_path: Path) -> None:
    labels = image_labels(squares.instances, squares.images, tmp_path, canvas=32, cells=8)
    cache = open_pixel_cache(ImageFiles(labels.image_files), tmp_path, canvas=32, read=CanvasReader(32))

    def batches() -> ImageBatches:
        return ImageBatches(cache, labels, np.arange(len(cache)), batch_size=5, seed=3, flip=True)

    in_order = batches()
    expected = [in_order.batch_at(i) for i in range(6)]
    alone = batches()
    for index in (5, 0, 3):
        for name, tensor in alone.batch_at(index).items():
            assert torch.equal(tensor, expected[index][name])
    # 12 images in batches of 5: two whole passes and more
    seen = [alone._row(i) for i in range(24)]
    assert sorted(seen[:12]) == sorted(seen[12:]) == list(range(12)) and seen[:12] != seen[12:]


def test_both_towers_learn_from_the_dense_loss() -> None:
    config = PixelLLMConfig.for_tests()
    towers: Any = PixelLLMForGroundedGeneration(config).vision_towers
    widths = {"fused": 24 + 16, "eva02": 24, "sam": 16}
    model = TowerLearner(towers, PatchHeads(widths, 4, {"size": 2}, CellTaskConfig(box_loss_weight=1.0)))
    vision: Any = config.vision_config
    cells = vision.grid_size * 2
    labels = torch.randint(0, 3, (2, 2, cells, cells))
    pixels, mask = torch.rand(2, 3, 64, 64) * 255, torch.ones(2, 64, 64, dtype=torch.bool)
    boxes = torch.rand(2, 4, cells, cells)
    output = model(pixels, mask, labels, boxes)
    elsewhere = boxes + (labels[:, :1] <= 0)  # boxes of cells without an object must not count
    assert model(pixels, mask, labels, elsewhere).loss_parts["fused_box"] == output.loss_parts["fused_box"]
    output.loss.backward()
    # The towers' last layers must get gradients, each through its own head as well.
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in towers.sam.neck.parameters())
    assert towers.eva02.ln_post.weight.grad.abs().sum() > 0
    assert {"fused", "eva02", "sam", "size", "fused_foreground_accuracy", "fused_box"} <= set(output.loss_parts)


def test_pretrained_towers_start_the_model(squares_recipe: dict[str, Any], tmp_path: Path, launch: Launcher) -> None:
    recipe: dict[str, Any] = {"objective": "towers", "model": {"init": "for_tests"}, **squares_recipe}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    output = launch("train.py", tmp_path / "recipe.yaml").finish()
    assert "fused foreground accuracy" in output
    weights = str(tmp_path / "run" / "model" / "vision_towers.safetensors")
    model = build_model("for_tests", vision_weights=weights)
    saved = load_file(weights)
    for name, tensor in model.vision_towers.state_dict().items():
        assert torch.equal(tensor, saved[f"vision_towers.{name}"])
    with pytest.raises(ConfigError, match="does not fit the model"):
        build_model("tiny", vision_weights=weights)
    recipe |= {"model": {"init": "for_tests", "vision_weights": weights}, "optimizer": {"learning_rate": 0.0}}
    recipe["run"] |= {"output_dir": str(tmp_path / "further")}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    launch("train.py", tmp_path / "recipe.yaml").finish()
    further = load_file(tmp_path / "further" / "model" / "vision_towers.safetensors")
    assert all(torch.equal(further[name], tensor) for name, tensor in saved.items())
