"""What a recipe's sources and text files say, as batches that teach a language model to write alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from pixelllm_hf.data.annotation_text import read_lines
from pixelllm_hf.data.bad_records import AnnotationFileError, ReadReport
from pixelllm_hf.data.packed_labels import pack_labels
from pixelllm_hf.data.plain_texts import plain_prompt, plain_text
from pixelllm_hf.modeling.losses import IGNORE_INDEX
from pixelllm_hf.training.config import ConfigError
from pixelllm_hf.training.sources import DataConfig, SourceConfig, read_source_cached

TEXTS_PER_ROW = 6
_BATCHES_PER_POOL = 64


def recipe_texts(data: DataConfig, sources: Sequence[SourceConfig]) -> Iterator[str]:
    """Every text that the sources answer with, and every line of `data.texts`."""
    for file in data.texts:
        report = ReadReport()
        try:
            lines = (line.strip() for _, line in read_lines(file, report, "raise"))
            yield from (text for line in lines if (text := plain_text(line) if data.plain_texts else line))
        except (OSError, AnnotationFileError) as error:
            raise ConfigError(f"data.texts: {error}") from error
    for source in sources:
        rows, _ = read_source_cached(source, data.cache_dir)
        for prompts in rows["prompts"]:
            for prompt in prompts:
                yield (plain_prompt(prompt) if data.plain_texts else prompt)["target"]


class TextBatches:
    """Batch number `index` of texts of like length, several a row: labels (R, T) and label_segments (R, T).

    A pure function of the seed and the index. Every text comes once a pass, but for the few that fill no whole batch.
    """

    def __init__(self, texts: Sequence[str], tokenizer: Any, *, batch_size: int, max_tokens: int, seed: int):
        encoded = tokenizer(list(texts), add_special_tokens=False)["input_ids"] if texts else []
        end = tokenizer.eos_token_id
        self.tokens = [np.array((ids + [end])[: max_tokens - 1], np.int32) for ids in encoded if ids]
        if len(self.tokens) < batch_size:
            raise ConfigError(
                f"there are {len(self.tokens)} texts, which fill no batch of {batch_size}. Name more in data.texts or "
                "data.sources, or take a smaller batch_size."
            )
        self.batch_size, self.seed = batch_size, seed
        self.lengths = np.array([len(ids) for ids in self.tokens])
        self._passes: dict[int, np.ndarray] = {}

    def batch_at(self, index: int) -> dict[str, Any]:
        epoch, place = divmod(index, len(self.tokens) // self.batch_size)
        chosen = [self.tokens[text] for text in self._pass(epoch)[place]]
        labels = torch.full((len(chosen), max(map(len, chosen))), IGNORE_INDEX)
        for row, ids in enumerate(chosen):
            labels[row, : len(ids)] = torch.from_numpy(ids)
        counts = [len(part) for part in np.array_split(np.arange(len(chosen)), -(-len(chosen) // TEXTS_PER_ROW))]
        return pack_labels({"labels": labels}, counts)

    def _pass(self, epoch: int) -> np.ndarray:
        """(batches, batch_size): the texts of each batch, alike in length within pools of many batches."""
        if epoch not in self._passes:
            self._passes.clear()
            generator = np.random.default_rng([self.seed, 3, epoch])
            order = generator.permutation(len(self.tokens))
            size = self.batch_size * _BATCHES_PER_POOL
            pools = [order[start : start + size] for start in range(0, len(order), size)]
            order = np.concatenate([pool[np.argsort(self.lengths[pool], kind="stable")] for pool in pools])
            whole = order[: len(order) // self.batch_size * self.batch_size].reshape(-1, self.batch_size)
            self._passes[epoch] = generator.permutation(whole)
        return self._passes[epoch]
