"""Training on what frozen towers have seen once, against towers that see every image again at every step."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from pixelllm_hf.data.scenes import write_scenes
from pixelllm_hf.data.tokenizer_training import train_tokenizer
from pixelllm_hf.evaluation.bootstrap import Estimate
from pixelllm_hf.training.language_objective import language_objective
from pixelllm_hf.training.objective import Objective
from pixelllm_hf.training.recipe import TrainConfig
from pixelllm_hf.training.recipe_values import from_dict

from .pairs import timed_in_turn

# Widths of both towers of the preset `tiny`, whose own are 192; the language model stays as it is.
TOWERS: dict[str, dict[str, Any]] = {
    "tiny": {},
    "small": {"hidden_size": 384, "num_hidden_layers": 8},
    "base": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12},
}


@dataclass(frozen=True)
class CacheRow:
    """Images that a training step learns from in a second, with and without the cache (medians); faster: how many times
    as many; worst_loss_error: between the losses of the same step, of which cached features are in half precision."""

    tower_parameters: int
    other_parameters: int
    cached: float
    uncached: float
    faster: Estimate
    worst_loss_error: float


def compare(towers: str, *, batch_size: int, repeats: int, clock: str = "wall") -> CacheRow:
    """The same steps of the same model on composed scenes, reading, forward, backward and optimizer included."""
    with tempfile.TemporaryDirectory() as folder:
        cached, uncached = (_Training(Path(folder), towers, batch_size, cache) for cache in (True, False))
        losses = [(cached.loss(index), uncached.loss(index)) for index in range(2)]
        found = timed_in_turn({"cached": cached.step, "uncached": uncached.step}, repeats, clock)
    in_towers = sum(p.numel() for p in cached.model.vision_towers.parameters())
    return CacheRow(
        tower_parameters=in_towers,
        other_parameters=sum(p.numel() for p in cached.model.parameters()) - in_towers,
        cached=batch_size / found.median("cached"),
        uncached=batch_size / found.median("uncached"),
        faster=found.ratio("uncached", "cached"),
        worst_loss_error=max(abs(one - other) / abs(other) for one, other in losses),
    )


class _Training:
    """A model, its batches and its optimizer."""

    def __init__(self, folder: Path, towers: str, batch_size: int, cache: bool):
        torch.manual_seed(0)
        self.objective: Objective = language_objective(
            _recipe(folder, towers, batch_size, cache), Accelerator(cpu=True)
        )
        self.model: Any = self.objective.module.train()
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=1e-4)
        self.index = 0

    @torch.no_grad()
    def loss(self, index: int) -> float:
        return float(self.model(**self.objective.batches.batch_at(index)).loss)

    def step(self) -> None:
        loss = self.model(**self.objective.batches.batch_at(self.index)).loss
        self.index += 1
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


def _recipe(folder: Path, towers: str, batch_size: int, cache: bool) -> TrainConfig:
    """Captions with locations on a few composed scenes, made once."""
    scenes, tokenizer = folder / "scenes", folder / "tokenizer"
    if not scenes.is_dir():
        write_scenes(scenes, 4 * batch_size, 0)
        lines = (scenes / "localized_narratives.jsonl").read_text(encoding="utf-8").splitlines()
        train_tokenizer([json.loads(line)["caption"] for line in lines], max_pieces=400).save_pretrained(tokenizer)
    source = {
        "name": "trace",
        "format": "localized_narratives",
        "annotations": str(scenes / "localized_narratives.jsonl"),
        "images": str(scenes / "images"),
    }
    sizes = {**TOWERS[towers], "frozen": True}
    overrides: dict[str, Any] = {
        "vision_config": {"towers": {"eva02": sizes, "sam": sizes}},
        "proposal_head_config": None,
        "mask_head_config": None,
    }
    values: dict[str, Any] = {
        "model": {
            "init": "tiny",
            "processor": str(tokenizer),
            "freeze": ["vision_towers", "prompt_encoder"],
            "overrides": overrides,
        },
        "data": {
            "batch_size": batch_size,
            "sources": [source],
            "cache_dir": str(folder / "cache"),
            "cache_features": cache,
        },
    }
    return from_dict(TrainConfig, values)


__all__ = ["TOWERS", "CacheRow", "compare"]
