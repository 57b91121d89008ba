"""Evaluation by several processes, with the numbers of one.

Whole batches are handed out in turn, so that every image is computed in the same company as in a single process, and
what is gathered are answers, in the order of the images: CIDEr, cIoU, METEOR and average precision are no averages.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

import torch.distributed as dist

ResultT = TypeVar("ResultT")


@dataclass(frozen=True)
class DistributedShard:
    """What process `index` of `count` does."""

    index: int = 0
    count: int = 1

    @classmethod
    def of_this_process(cls) -> DistributedShard:
        """As torch.distributed was set up, by `accelerate launch` for example; all there is without it."""
        if dist.is_available() and dist.is_initialized():
            return cls(dist.get_rank(), dist.get_world_size())
        return cls()

    @property
    def is_main(self) -> bool:
        return self.index == 0

    def starts(self, number: int, batch_size: int) -> range:
        """Where the batches of this process begin.

        >>> list(DistributedShard(1, 2).starts(10, 3))
        [3, 9]
        """
        return range(self.index * batch_size, number, self.count * batch_size)

    def gathered(self, results: Mapping[int, ResultT]) -> list[ResultT]:
        """index -> result of every process, together and in the order of the indices. All processes must call it."""
        merged = dict(results)
        if self.count > 1:
            parts: list[Mapping[int, ResultT]] = [{} for _ in range(self.count)]
            dist.all_gather_object(parts, dict(results))
            for part in parts:
                merged |= part
        return [merged[i] for i in sorted(merged)]
