"""Which examples make up batch number i, for several sources mixed by weight.

Everything is a pure function of the seed and the batch's number: any process can ask for any batch in any order, and a
run that was killed goes on exactly where it was without storing more than its step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Sized
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

_DRAWS_PER_CHUNK = 4096


class RowSource(Sized, Protocol):
    """A list-like set of rows, such as a `datasets.Dataset`."""

    def __getitem__(self, index: int) -> dict[str, Any]: ...


@dataclass(frozen=True)
class BatchPlan:
    """One batch: the source's name, the rows to take from it, and how often the source was passed before each row."""

    source: str
    indices: tuple[int, ...]
    epochs: tuple[int, ...]


class MixedBatches:
    """Draws a source per batch by weight and walks each source in shuffled passes, every row once a pass.

    sizes: rows of each source. weights: relative number of batches of each source (equal by default).
    As in the reference a batch never mixes sources. together: so many batches in a row have the same source; processes
    that take one step together then have batches of like cost and do not wait for each other.

    >>> plan = MixedBatches({"trace": 10}, batch_size=4, seed=0)
    >>> sorted(index for step in range(5) for index in plan.at(step).indices) == sorted(list(range(10)) * 2)
    True
    """

    def __init__(
        self,
        sizes: Mapping[str, int],
        *,
        batch_size: int,
        seed: int,
        weights: Mapping[str, float] | None = None,
        shuffle: bool = True,
        together: int = 1,
    ):
        weights = dict(weights) if weights is not None else dict.fromkeys(sizes, 1.0)
        if set(weights) != set(sizes) or not sizes:
            raise ValueError(
                f"every source needs a weight: the sources are {sorted(sizes)}, the weights are for {sorted(weights)}."
            )
        for name, size in sizes.items():
            if size < 1:
                raise ValueError(f"source {name!r} is empty. Leave it out, or look at its reader's report.")
            if not weights[name] >= 0:
                raise ValueError(f"weights must be 0 or more, but that of {name!r} is {weights[name]}.")
        total = sum(weights.values())
        if batch_size < 1 or not 0 < total < float("inf"):
            raise ValueError(
                f"batch_size must be 1 or more and some weight positive, but they are {batch_size} and {weights}."
            )
        if together < 1:
            raise ValueError(f"together must be 1 or more, but is {together}: the processes of a step.")
        self.names, self.together = list(sizes), together
        self.sizes = dict(sizes)
        self.batch_size, self.seed, self.shuffle = batch_size, seed, shuffle
        self._probabilities = np.array([weights[name] / total for name in self.names])
        self._draws: dict[int, np.ndarray] = {}
        self._drawn_before = [np.zeros(len(self.names), np.int64)]
        self._orders: dict[tuple[int, int], np.ndarray] = {}

    def at(self, step: int) -> BatchPlan:
        """The plan of batch `step` (0, 1, ...)."""
        chunk, place = divmod(step, _DRAWS_PER_CHUNK * self.together)
        draws = self._chunk(chunk)
        source = int(draws[place])
        taken = int(self._before(chunk)[source] + np.count_nonzero(draws[:place] == source))
        size = self.sizes[self.names[source]]
        positions = range(taken * self.batch_size, (taken + 1) * self.batch_size)
        epochs = tuple(position // size for position in positions)
        indices = tuple(int(self._order(source, position // size)[position % size]) for position in positions)
        return BatchPlan(self.names[source], indices, epochs)

    def _chunk(self, chunk: int) -> np.ndarray:
        """Sources of the batches of one chunk, as indices."""
        if chunk not in self._draws:
            self._draws.clear()  # steps are mostly asked for in order
            self._draws[chunk] = self._drawn(chunk)
        return self._draws[chunk]

    def _before(self, chunk: int) -> np.ndarray:
        """Batches of each source in all chunks before this one."""
        while len(self._drawn_before) <= chunk:
            earlier = len(self._drawn_before) - 1
            drawn = np.bincount(self._drawn(earlier), minlength=len(self.names))
            self._drawn_before.append(self._drawn_before[-1] + drawn)
        return self._drawn_before[chunk]

    def _drawn(self, chunk: int) -> np.ndarray:
        generator = np.random.default_rng([self.seed, 0, chunk])
        draws = generator.choice(len(self.names), _DRAWS_PER_CHUNK, p=self._probabilities)
        return np.repeat(draws, self.together)

    def _order(self, source: int, epoch: int) -> np.ndarray:
        size = self.sizes[self.names[source]]
        if not self.shuffle:
            return np.arange(size)
        if (source, epoch) not in self._orders:
            for old in [key for key in self._orders if key[0] == source and key[1] != epoch - 1]:
                del self._orders[old]
            self._orders[source, epoch] = np.random.default_rng([self.seed, 1, source, epoch]).permutation(size)
        return self._orders[source, epoch]


class GroundedBatches:
    """Ready batches by number: plan -> rows -> collator. What `Trainer` and a `DataLoader` with workers read from.

    sources: rows by name. collate(rows, generators): makes the batch; each row gets its own random generator, a
    function of the seed, the batch's number and the row's place in it.
    """

    def __init__(
        self,
        sources: Mapping[str, RowSource],
        collate: Callable[[Sequence[dict[str, Any]], Sequence[np.random.Generator]], dict[str, Any]],
        *,
        batch_size: int,
        seed: int,
        weights: Mapping[str, float] | None = None,
        shuffle: bool = True,
        together: int = 1,
    ):
        self.sources = {name: undecoded(source) for name, source in sources.items()}
        self.collate = collate
        self.seed = seed
        self.plan = MixedBatches(
            {name: len(source) for name, source in sources.items()},
            batch_size=batch_size,
            seed=seed,
            weights=weights,
            shuffle=shuffle,
            together=together,
        )

    @property
    def sizes(self) -> dict[str, int]:
        """Rows of each source."""
        return self.plan.sizes

    def batch_at(self, index: int) -> dict[str, Any]:
        """Batch number `index`, the same in any process and order."""
        plan = self.plan.at(index)
        source = self.sources[plan.source]
        rows = [source[row] for row in plan.indices]
        generators = [np.random.default_rng([self.seed, 2, index, place]) for place in range(len(rows))]
        return self.collate(rows, generators)


def undecoded(source: Any) -> Any:
    """A `datasets` source whose images stay files or bytes, so that the collator decodes each once; others as is."""
    import datasets

    if isinstance(source, datasets.Dataset | datasets.IterableDataset) and source.features is not None:
        for name, feature in source.features.items():
            if isinstance(feature, datasets.Image) and feature.decode:
                source = source.cast_column(name, datasets.Image(decode=False))
    return source
