from __future__ import annotations

import queue

import numpy as np
import pytest
import torch
from PIL import Image

from pixelllm_hf.processing.grounded_streamer import GroundedStreamer

SENTENCES = ["a dog chases a red ball.", "it is a"]


@pytest.fixture
def inputs(processor):
    images = [Image.fromarray(np.zeros((h, w, 3), dtype=np.uint8)) for w, h in ((128, 96), (50, 100))]
    return processor(images)


@pytest.fixture
def answer(processor):
    """(sequences (2,T), coordinates (2,T,2,2)) for the two sentences."""
    rows = [[0, *processor.tokenizer(text, add_special_tokens=False).input_ids, 1] for text in SENTENCES]
    length = max(map(len, rows))
    sequences = torch.tensor([row + [0] * (length - len(row)) for row in rows])
    coordinates = torch.rand(2, length, 2, 2, generator=torch.Generator().manual_seed(0))
    coordinates[sequences < 2] = torch.nan
    return sequences, coordinates


def generate_like(answer, cut=False):
    """Feeds a streamer in the order of `generate`: a token's location comes before the next token."""

    def generate(streamer, **inputs):
        sequences, coordinates = answer
        streamer.put(sequences[:, :1])
        for t in range(1, sequences.shape[1]):
            streamer.put(sequences[:, t])
            if t < sequences.shape[1] - 1 or cut:
                streamer.put_location(coordinates[:, t])
        streamer.end()

    return generate


@pytest.mark.parametrize("cut", [False, True])
def test_streamed_words_are_the_words_of_the_finished_answer(processor, inputs, answer, cut):
    sequences, coordinates = answer
    if cut:  # stopped by the length limit, in the middle of a word
        sequences, coordinates = sequences[:, :4], coordinates[:, :4]
    streamer = GroundedStreamer(processor, inputs)
    generate_like((sequences, coordinates), cut)(streamer)
    streamed = list(streamer.rows())
    results = processor.post_process_grounded_generation({"sequences": sequences, "coordinates": coordinates}, inputs)
    for row, (result,) in enumerate(results):
        assert tuple(word for i, word in streamed if i == row) == result.words


def test_a_word_comes_when_the_next_one_begins(processor, inputs, answer):
    sequences, coordinates = answer
    streamer = GroundedStreamer(processor, inputs, timeout=0.01)
    tokens = processor.tokenizer.convert_ids_to_tokens(sequences[0])
    assert tokens[1:5] == ["▁a", "▁dog", "▁cha", "ses"]
    streamer.put(sequences[:, :1])
    streamer.put(sequences[:, 1])
    with pytest.raises(queue.Empty):
        next(iter(streamer))
    streamer.put_location(coordinates[:, 1])
    streamer.put(sequences[:, 2])
    row, word = next(streamer.rows())
    assert (row, word.text) == (0, "a") and word.point is not None and word.score is None


def test_stream_runs_generate_and_passes_the_inputs_on(processor, inputs, answer):
    seen = {}

    def generate(streamer, **options):
        seen.update(options)
        generate_like(answer)(streamer)

    words = list(processor.streamer(inputs).stream(generate, max_new_tokens=9))
    assert sorted(word.text for word in words) == sorted(["a", "dog", "chases", "a", "red", "ball", "it", "is", "a"])
    assert seen["max_new_tokens"] == 9 and set(inputs) <= set(seen)


def test_errors_of_generate_reach_the_reader(processor, inputs):
    def generate(streamer, **options):
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        list(GroundedStreamer(processor, inputs).stream(generate))


def test_nothing_generated_streams_nothing(processor, inputs):
    streamer = GroundedStreamer(processor, inputs)
    streamer.put(torch.zeros(2, 1, dtype=torch.long))
    streamer.end()
    assert list(streamer) == []
