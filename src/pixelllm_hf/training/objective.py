"""What a training run is after: a module with a loss, the batches for it, and how its result is saved."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from pixelllm_hf.data.mixing import GroundedBatches
from pixelllm_hf.training.batch_stream import BatchSource


@dataclass(frozen=True)
class Objective:
    """What `Trainer` needs of one.

    module: `forward(**batch)` gives `.loss` and `.loss_parts`. save: called with a folder and whether the run is over.
    evaluate: further numbers during training. trained_only: see `Trainer`. shown: the number that the end of a run
    prints, None for all. result: in the output folder, for the same line. notes: said before the run begins.
    processor: that the batches were made with; grounded: the batches before anything was added, of sources.
    """

    module: nn.Module
    batches: BatchSource
    held_out: BatchSource | None
    save: Callable[[Path, bool], None]
    evaluate: Callable[[nn.Module, int], Mapping[str, float]] | None = None
    trained_only: bool = False
    shown: str | None = None
    result: str = "model"
    notes: tuple[str, ...] = ()
    processor: Any = None
    grounded: GroundedBatches | None = None

    def summary(self, metrics: Mapping[str, float], output_dir: str) -> str:
        """The last line of a run."""
        if self.shown is None:
            numbers = " · ".join(f"{name} {value:.5g}" for name, value in metrics.items())
        else:
            value = metrics.get(f"eval_{self.shown}", metrics.get(self.shown, float("nan")))
            numbers = f"step {int(metrics['step'])} · {self.shown.replace('_', ' ')} {value:.4f}"
        return f"{numbers} · {Path(output_dir) / self.result}"
