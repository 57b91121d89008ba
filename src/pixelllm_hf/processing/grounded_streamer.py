"""Words with their locations while the model still writes."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from transformers.generation.streamers import BaseStreamer

from .grounded_results import GroundedWord, ground_words
from .word_spans import SpanReader
from .written_targets import read_without


class GroundedStreamer(BaseStreamer):
    """Iterating gives each `GroundedWord` as soon as it is complete, which is when the next word begins.

    `generate(..., streamer=streamer)` fills it from its own thread, with greedy decoding or sampling; `stream` starts
    that thread. Words of several prompts come mixed: `rows()` tells them apart. Scores are not known yet (None).

    Args:
        processor: the `PixelLLMProcessor` that made the inputs.
        inputs: what `generate` is given.
        timeout: seconds to wait for the next word before `queue.Empty` is raised; None waits for ever.
    """

    def __init__(self, processor: Any, inputs: Mapping[str, Any], timeout: float | None = None):
        self.processor = processor
        self.inputs = inputs
        self.timeout = timeout
        self._reader = SpanReader(processor.tokenizer)
        self._queue: queue.Queue[tuple[int, GroundedWord] | BaseException | None] = queue.Queue()
        self._started = False
        self._tokens: list[np.ndarray] = []  # per step (rows,)
        self._places: list[np.ndarray] = []  # per consumed token (rows,P,2), normalized; one behind the tokens
        self._certainty: dict[str, list[np.ndarray]] = {}  # likewise, what else is known of places, by its name
        self._transforms: list[Any] = []  # per row
        self._sent: list[int] = []  # words of each row that were given out

    def put(self, value: Any) -> None:
        """Token ids (rows,) just chosen; the first call brings the decoder's start tokens, which are no words."""
        tokens = np.asarray(value.cpu() if hasattr(value, "cpu") else value)
        if not self._started:
            self._started = True
            return
        tokens = tokens.reshape(-1)
        if not self._transforms:
            sources = self.processor.prompt_sources(self.inputs, len(tokens))
            self._transforms = [source.transform for source in sources]
            self._sent = [0] * len(tokens)
        self._tokens.append(tokens)
        self._send(finished=False)

    def put_location(self, points: Any) -> None:
        """points (rows,P,2), 0..1 of the unpadded image: the place of the oldest token that has none yet."""
        self._places.append(_array(points))

    def put_certainty(self, **values: Any) -> None:
        """coordinate_scales (rows,P,2) and visual_probs (rows,) of the place that comes next."""
        for name, value in values.items():
            self._certainty.setdefault(name, []).append(_array(value))

    def end(self) -> None:
        """Nothing more comes: what is left is complete."""
        if self._tokens:
            self._send(finished=True)
        self._queue.put(None)

    def _send(self, finished: bool) -> None:
        """Give out the words that can grow no more: those with a blank after them, at the end all."""
        for row, transform in enumerate(self._transforms):
            ids = [tokens[row] for tokens in self._tokens]
            spanned = read_without(self._reader, ids, self.processor.codebook_token_ids)
            last_chunk = 0 if not spanned.text else len(spanned.text) - len(spanned.text.split()[-1])
            count = len(self._tokens)
            certainty = {name: _of_row(values, row, count) for name, values in self._certainty.items()}
            words = ground_words(spanned, _of_row(self._places, row, count), None, transform, **certainty)
            complete = [word for word in words if finished or word.end <= last_chunk]
            for word in complete[self._sent[row] :]:
                self._queue.put((row, word))
            self._sent[row] = max(self._sent[row], len(complete))

    def rows(self) -> Iterator[tuple[int, GroundedWord]]:
        """(row of the answer, word) pairs; rows are prompts, image after image."""
        while (item := self._queue.get(timeout=self.timeout)) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item

    def __iter__(self) -> Iterator[GroundedWord]:
        return (word for _, word in self.rows())

    def stream(self, generate: Callable[..., Any], **options: Any) -> Iterator[GroundedWord]:
        """Run `generate(**inputs, **options)` in a thread and yield its words; its errors are raised here."""

        def work() -> None:
            try:
                generate(**self.inputs, **options, streamer=self)
            except BaseException as error:  # the reader must not wait for ever
                self._queue.put(error)

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        yield from self
        thread.join()


def _of_row(values: list[np.ndarray], row: int, num_tokens: int) -> np.ndarray | None:
    """(T,…) with NaN for tokens of which nothing is known yet; None before the first."""
    if not values:
        return None
    known = [value[row] for value in values[:num_tokens]]
    missing = np.full_like(known[0], np.nan)
    return np.stack(known + [missing] * (num_tokens - len(known)))


def _array(values: Any) -> np.ndarray:
    return values.detach().float().cpu().numpy() if hasattr(values, "detach") else np.asarray(values)


__all__ = ["GroundedStreamer"]
