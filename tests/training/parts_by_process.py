"""One of two processes whose batches have different parts of the loss; run by test_trainer.py."""

from __future__ import annotations

import sys
from dataclasses import dataclass

import torch
from torch import nn

from pixelllm_hf.training.config import OptimizerConfig, RunConfig
from pixelllm_hf.training.trainer import Trainer, start


@dataclass
class Output:
    loss: torch.Tensor
    loss_parts: dict[str, torch.Tensor]


class PartsByProcess(nn.Module):
    """What process 0 learns from has another part than what the other learns from."""

    def __init__(self, process: int) -> None:
        super().__init__()
        self.process = process
        self.a = nn.Linear(4, 3)

    def forward(self, pixel_values: torch.Tensor) -> Output:
        loss = self.a(pixel_values).square().mean()
        own = {"mask": 2.0} if self.process == 0 else {"text": 3.0, "point": 4.0}
        parts = {"square": 5.0 + self.process, **own}
        return Output(loss, {name: torch.tensor(value) for name, value in parts.items()})


class Ones:
    def batch_at(self, index: int) -> dict[str, torch.Tensor]:
        return {"pixel_values": torch.ones(8, 4)}


if __name__ == "__main__":
    config = RunConfig(
        output_dir=sys.argv[1], total_steps=2, warmup_steps=0, log_every=1, save_every=2, progress=False, cpu=True
    )
    accelerator = start(config)
    assert accelerator.num_processes == 2
    model = PartsByProcess(accelerator.process_index)
    Trainer(model, Ones(), accelerator=accelerator, run=config, optimizer=OptimizerConfig()).run()
