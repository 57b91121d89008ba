"""Captions that score better become likelier."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from pixelllm_hf.training.config import ConfigError, from_dict
from pixelllm_hf.training.recipe import TrainConfig
from pixelllm_hf.training.reward_objective import END, RewardedBatches, reward_objective


def squares_reward(corpus: Sequence[Sequence[str]]) -> Any:
    """Says how many words of a caption are "square", and 1 more where it ends."""
    assert len(corpus) == 12 and all(text.endswith(f"square {END}") for texts in corpus for text in texts)

    def reward(captions: Sequence[Sequence[str]], references: Sequence[Sequence[str]]) -> list[list[float]]:
        assert len(captions) == len(references) and all(len(texts) == 1 for texts in references)
        return [[float(text.split().count("square") + text.endswith(END)) for text in texts] for texts in captions]

    return reward


def recipe(squares: SimpleNamespace, tokenizer_folder: Path, **data: Any) -> TrainConfig:
    source = {"format": "localized_narratives", "annotations": str(squares.narratives), "images": str(squares.images)}
    overrides = {"text_config": {"vocab_size": 1024}}
    return from_dict(
        TrainConfig,
        {
            "objective": "reward",
            "reward": {"function": f"{__name__}:squares_reward", "samples": 4, "share": 1.0, "max_new_tokens": 5},
            "model": {"init": "for_tests", "processor": str(tokenizer_folder), "overrides": overrides},
            "data": {"sources": [source], "batch_size": 4, "cache_dir": None, "pack_texts": True, **data},
        },
    )


def test_training_raises_the_reward(squares: SimpleNamespace, tokenizer_folder: Path) -> None:
    torch.manual_seed(0)
    objective = reward_objective(recipe(squares, tokenizer_folder), Accelerator(cpu=True))
    language = objective.module.model.language_model
    optimizer = torch.optim.AdamW([language.lm_head.weight, language.body.shared.weight], lr=0.03)
    rewards = []
    for step in range(60):
        batch = objective.batches.batch_at(step)
        batch.pop("source")
        output = objective.module(**batch)
        output.loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        rewards.append(float(output.loss_parts["reward"]))
    assert np.mean(rewards[-5:]) > np.mean(rewards[:5]) + 0.5


def test_a_batch_that_is_not_rewarded_teaches_as_before(squares: SimpleNamespace, tokenizer_folder: Path) -> None:
    objective = reward_objective(recipe(squares, tokenizer_folder), Accelerator(cpu=True))
    batch = objective.batches.batch_at(0)
    assert batch.pop("rewarded")
    batch.pop("source")
    with torch.no_grad():
        assert objective.module(**batch).loss == objective.module.model(**batch).loss


def test_the_share_of_rewarded_batches_is_kept_and_phrases_are_never_rewarded() -> None:
    def batch_at(_: int, prompts: int = 1, text: float = 1.0) -> dict[str, torch.Tensor]:
        return {"prompt_boxes": torch.zeros(2, prompts, 4), "text_loss_mask": torch.full((2,), text)}

    captions = RewardedBatches(SimpleNamespace(batch_at=batch_at), share=0.25, seed=0)
    rewarded = [captions.batch_at(index)["rewarded"] for index in range(400)]
    assert 70 < sum(rewarded) < 130 and rewarded[:40] == [captions.batch_at(index)["rewarded"] for index in range(40)]
    for other in ({"prompts": 2}, {"text": 0.0}):
        source = SimpleNamespace(batch_at=lambda index, other=other: batch_at(index, **other))
        assert not any(RewardedBatches(source, 1.0, 0).batch_at(index)["rewarded"] for index in range(9))


def test_captions_need_one_row_an_image_and_a_reward_that_is_there(
    squares: SimpleNamespace, tokenizer_folder: Path
) -> None:
    with pytest.raises(ConfigError, match="pack_texts"):
        reward_objective(recipe(squares, tokenizer_folder, pack_texts=False), Accelerator(cpu=True))
    lost = recipe(squares, tokenizer_folder)
    lost.reward.function = "pixelllm_hf.evaluation.cider:Nothing"  # type: ignore[union-attr]
    with pytest.raises(ConfigError, match="Nothing"):
        reward_objective(lost, Accelerator(cpu=True))


def test_captions_are_drawn_as_often_as_the_model_finds_them_likely(
    squares: SimpleNamespace, tokenizer_folder: Path
) -> None:
    torch.manual_seed(0)
    settings = recipe(squares, tokenizer_folder)
    settings.reward.samples, settings.reward.max_new_tokens = 64, 1  # type: ignore[union-attr]
    learner = reward_objective(settings, Accelerator(cpu=True)).module.eval()
    model = learner.model
    with torch.no_grad():
        weight: torch.Tensor = model.language_model.lm_head.weight
        weight[5:] -= 10 * weight[5:].sign()  # few choices
        states = torch.randn(16, 4, model.language_model.width)[:1].expand(16, -1, -1).contiguous()
        mask = torch.ones(16, 4, dtype=torch.bool)
        start = torch.full((1, 1), model.config.text_config.decoder_start_token_id)
        decoded, _ = model.language_model.decode(start, states[:1], mask[:1])
        likely = model.language_model.logits(decoded)[0, -1].softmax(-1)
        drawn = torch.tensor([ids[0] for row in learner._sampled(states, mask) for ids in row])
    often = torch.bincount(drawn, minlength=len(likely)) / len(drawn)
    assert float((often - likely).abs().max()) < 0.06
