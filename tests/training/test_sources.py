"""Sources of a recipe and the shared extraction of equal prompts."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from pixelllm_hf.modeling.configuration_pixelllm import PixelLLMConfig
from pixelllm_hf.modeling.modeling_pixelllm import PixelLLMForGroundedGeneration
from pixelllm_hf.training.config import ConfigError
from pixelllm_hf.training.initial_model import load_processor
from pixelllm_hf.training.shared_prompts import distinct_prompts, share_equal_prompts
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


def test_distinct_prompts_keep_the_first_of_equal_ones() -> None:
    a, b, none = [0.0, 0, 5, 5], [1.0, 1, 2, 2], [0.0, 0, 0, 0]
    boxes = torch.tensor([[a, b, a, none], [b, b, a, a]])
    mask = torch.tensor([[True, True, True, False], [True, True, True, True]])
    kept, rows = distinct_prompts(boxes, mask)
    assert kept.tolist() == [[True, True, False, False], [True, False, True, False]]
    assert rows.tolist() == [0, 1, 0, 2, 2, 3, 3]


def test_sharing_equal_prompts_changes_no_answer() -> None:
    torch.manual_seed(0)
    model = PixelLLMForGroundedGeneration(PixelLLMConfig.for_tests()).eval()
    whole, part = [0.0, 0, 64, 64], [8.0, 8, 30, 40]
    inputs = {
        "pixel_values": torch.rand(2, 3, 64, 64) * 255,
        "pixel_mask": torch.ones(2, 64, 64, dtype=torch.bool),
        "prompt_boxes": torch.tensor([[whole, part, whole], [whole, whole, [0.0, 0, 0, 0]]]),
        "prompt_mask": torch.tensor([[True, True, True], [True, True, False]]),
        "labels": torch.randint(2, 90, (5, 4)),
    }
    plain = model(**inputs)
    plain.loss.backward()
    gradient = model.prompt_feature_extractor.output_tokens.weight.grad.clone()
    model.zero_grad()
    share_equal_prompts(model)
    shared = model(**inputs)
    shared.loss.backward()
    torch.testing.assert_close(shared.logits, plain.logits, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(model.prompt_feature_extractor.output_tokens.weight.grad, gradient, atol=1e-6, rtol=1e-4)
