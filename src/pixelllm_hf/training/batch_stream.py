"""The batches that a process trains on, in their order, and what is wrong with one that cannot be read."""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

# What data may bring about; what is left is a mistake of a program, and is shown with the place where it was made.
_OF_DATA = (OSError, ValueError, LookupError, EOFError, StopIteration)


class LoaderError(RuntimeError):
    """A process that loads batches was killed; the newest checkpoint is intact."""


class BatchError(RuntimeError):
    """A batch that could not be read, or is not what the others are; the newest checkpoint is intact."""


@dataclass(frozen=True)
class DealtBatches(Sequence[int]):
    """The numbers of the batches that one of `processes` reads from step `first` to step `last`, `per_step` in each.

    A step takes `rounds` rounds. Where its batches cannot be dealt out evenly, processes without one in the last round
    read the step's first, which counts for nothing there.
    """

    per_step: int
    processes: int
    rank: int
    first: int
    last: int

    @property
    def rounds(self) -> int:
        return -(-self.per_step // self.processes)

    def dealt_in(self, dealing: int) -> int:
        """How many processes have a batch of their own in a round of a step."""
        return min(self.processes, self.per_step - dealing * self.processes)

    def counts(self, dealing: int) -> bool:
        """Whether the batch of this process in a round of a step is one of its own."""
        return self.rank < self.dealt_in(dealing)

    def __len__(self) -> int:
        return (self.last - self.first) * self.rounds

    def __getitem__(self, number: Any) -> Any:
        if not 0 <= number < len(self):
            raise IndexError(number)
        step, dealing = divmod(number, self.rounds)
        within = dealing * self.processes + self.rank if self.counts(dealing) else 0
        return (self.first + step) * self.per_step + within


class BatchSource(Protocol):
    """Batch number `index`, always the same for the same index, in any process and order.

    Its entries are the model's arguments; a string `source`, if there is one, names the losses in the log.
    """

    def batch_at(self, index: int) -> dict[str, Any]: ...


@dataclass(frozen=True)
class _Unread:
    """In place of a batch: torch would repeat the error of a loader process as the text of its whole traceback."""

    index: int
    told: str
    where: str


class _Indexed(Dataset):
    def __init__(self, source: BatchSource):
        self.source = source

    def __getitem__(self, index: int) -> dict[str, Any] | _Unread:
        try:
            batch = self.source.batch_at(index)
            if names := _not_finite(batch):
                raise ValueError(f"{', '.join(names)} is not finite (NaN or infinite).")
            return batch
        except _OF_DATA as error:
            ended = isinstance(error, (StopIteration, EOFError, LookupError)) and not isinstance(error, KeyError)
            told = f"its data ended early ({type(error).__name__}: {error})" if ended else str(error)
            return _Unread(index, told or type(error).__name__, traceback.format_exc())


def _as_it_is(batch: Any) -> Any:
    """The loader's own conversion would take model outputs apart."""
    return batch


def batch_stream(
    source: BatchSource, indices: Sequence[int], *, workers: int, prefetch: int | None, pin_memory: bool
) -> Iterator[dict[str, Any]]:
    """Batches of these indices; `BatchError` for one that cannot be read, `LoaderError` where a loader was killed."""
    loader: DataLoader = DataLoader(
        _Indexed(source),
        batch_size=None,
        collate_fn=_as_it_is,
        sampler=indices,
        num_workers=workers,
        prefetch_factor=prefetch if workers else None,
        pin_memory=pin_memory,
        generator=torch.Generator(),  # the loader's seed must not come out of the training's random stream
    )
    return _read(iter(loader))


def _read(stream: Iterator[Any]) -> Iterator[dict[str, Any]]:
    while True:
        try:
            batch = next(stream)
        except StopIteration:
            return
        except RuntimeError as error:
            if not str(error).startswith("DataLoader worker"):
                raise
            raise LoaderError(
                f"A process that loads batches was killed ({error}). Often the memory was full: take fewer "
                "run.workers, or a smaller data.batch_size. The newest checkpoint is intact; the same command "
                "continues from it."
            ) from error
        if isinstance(batch, _Unread):
            failed = BatchError(
                f"Batch {batch.index} cannot be read: {batch.told.rstrip('.')}. The newest checkpoint is intact; when "
                "the data are mended, the same command continues from it."
            )
            failed.add_note(batch.where)
            raise failed
        yield batch


def batch_size(batch: Mapping[str, Any]) -> int:
    """Images, or rows of a batch without any: a source's first tensor counts them."""
    return next(len(value) for value in batch.values() if isinstance(value, Tensor))


def _not_finite(batch: Mapping[str, Any], within: str = "") -> list[str]:
    """Names of a batch's tensors that are not finite. Labels may be NaN: of what is not known."""
    names = []
    for name, value in batch.items():
        if isinstance(value, Mapping):
            names += _not_finite(value, f"{within}{name}.")
        elif isinstance(value, Tensor) and value.is_floating_point() and not name.endswith("labels"):
            names += [f"{within}{name}"] if not bool(value.isfinite().all()) else []
    return names


def differing_sizes(sizes: Sequence[Mapping[str, int] | None]) -> str:
    """What the processes of a run have of other sizes, "" if nothing. sizes: rows of each source, by process."""
    known = [(rank, own) for rank, own in enumerate(sizes) if own is not None]
    for rank, own in known[1:]:
        for name in {**known[0][1], **own}:
            first, here = known[0][1].get(name), own.get(name)
            if first != here:
                return f"source {name!r} has {first} rows in process {known[0][0]} and {here} in process {rank}"
    return ""


__all__ = ["BatchError", "BatchSource", "DealtBatches", "LoaderError", "batch_size", "batch_stream", "differing_sizes"]
