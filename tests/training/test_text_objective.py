"""Learning to write before seeing."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate import Accelerator

from pixelllm_hf.training.build_model import load_processor
from pixelllm_hf.training.config import ConfigError, from_dict
from pixelllm_hf.training.recipe import TrainConfig
from pixelllm_hf.training.sources import DataConfig, SourceConfig
from pixelllm_hf.training.text_batches import TextBatches, recipe_texts
from pixelllm_hf.training.text_objective import text_objective

LINES = ["A red square .", "", "a blue square and a red square .", " . ", "a red car"]


@pytest.fixture
def lines(tmp_path: Path) -> Path:
    file = tmp_path / "lines.txt"
    file.write_text("\n".join(LINES), encoding="utf-8")
    return file


@pytest.fixture
def tokenizer(tokenizer_folder: Path) -> Any:
    return load_processor(str(tokenizer_folder), image_size=64).tokenizer


def test_texts_are_the_lines_of_files_and_the_answers_of_sources(lines: Path, squares: SimpleNamespace) -> None:
    source = SourceConfig("localized_narratives", str(squares.narratives), str(squares.images))
    data = DataConfig([source], texts=[str(lines)], plain_texts=True, cache_dir=None)
    texts = list(recipe_texts(data, data.sources))
    assert texts[:3] == ["A red square", "a blue square and a red square", "a red car"]
    assert len(texts) == 3 + 12 and all(text.endswith("square") for text in texts[3:])


def test_a_file_of_texts_that_is_not_there_is_named(tmp_path: Path) -> None:
    data = DataConfig(texts=[str(tmp_path / "none.txt")], cache_dir=None)
    with pytest.raises(ConfigError, match="none.txt"):
        list(recipe_texts(data, []))


def test_every_text_comes_once_a_pass_whole_and_apart_from_its_neighbours(tokenizer: Any) -> None:
    texts = [f"a red square {'and a blue square ' * (number % 5)}" for number in range(26)]
    batches = TextBatches(texts, tokenizer, batch_size=13, max_tokens=40, seed=0)
    for epoch in range(2):
        seen: Counter[str] = Counter()
        for batch in (batches.batch_at(2 * epoch), batches.batch_at(2 * epoch + 1)):
            assert batch["labels"].shape == batch["label_segments"].shape
            for labels, segments in zip(batch["labels"], batch["label_segments"], strict=True):
                for segment in range(int(segments.max()) + 1):
                    tokens = labels[segments == segment].tolist()
                    assert tokens[-1] == tokenizer.eos_token_id
                    seen[tokenizer.decode(tokens[:-1])] += 1
        assert seen == Counter(tokenizer.decode(ids) for ids in tokenizer(texts, add_special_tokens=False)["input_ids"])
    again = TextBatches(texts, tokenizer, batch_size=13, max_tokens=40, seed=0)
    assert torch.equal(again.batch_at(3)["labels"], batches.batch_at(3)["labels"])


def test_too_few_texts_for_a_batch_are_an_error(tokenizer: Any) -> None:
    with pytest.raises(ConfigError, match="batch"):
        TextBatches(["a red square"], tokenizer, batch_size=2, max_tokens=8, seed=0)


def test_the_decoder_learns_to_write_and_nothing_else_changes(
    lines: Path, squares: SimpleNamespace, tokenizer_folder: Path, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    recipe = from_dict(
        TrainConfig,
        {
            "objective": "text",
            "model": {
                "init": "for_tests",
                "processor": str(tokenizer_folder),
                "overrides": {"text_config": {"vocab_size": 1024}},
            },
            "data": {
                "texts": [str(lines)],
                "batch_size": 2,
                "cache_dir": None,
                "held_out": [
                    {
                        "format": "localized_narratives",
                        "annotations": str(squares.narratives),
                        "images": str(squares.images),
                    }
                ],
            },
        },
    )
    objective = text_objective(recipe, Accelerator(cpu=True))
    before = {name: value.clone() for name, value in objective.module.state_dict().items()}
    optimizer = torch.optim.AdamW([p for p in objective.module.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for step in range(12):
        output = objective.module(**objective.batches.batch_at(step))
        output.loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(output.loss.detach()))
    assert losses[-1] < 0.7 * losses[0]
    changed = {name for name, value in objective.module.state_dict().items() if not torch.equal(value, before[name])}
    assert changed and all(name.startswith("model.language_model.") for name in changed)
    assert not any("encoder.block" in name or "EncDecAttention" in name for name in changed)
    assert objective.held_out is not None and objective.module(**objective.held_out.batch_at(0)).loss > 0
    objective.save(tmp_path / "model", True)
    assert (tmp_path / "model" / "model.safetensors").is_file() and (tmp_path / "model" / "tokenizer.json").is_file()
