"""Mouse traces with timed captions -> one box per spoken word -> one box per token (official.md#narratives).

Two steps. *Offline*, per narrative: every timed utterance gets the centre and the bounding box of the mouse during its
time span. *Online*, per tokenised caption: every token gets the box of an utterance, either by its rank alone
(`align_by_rank`, what the reference does) or by matching the words of the text (`align_by_text`).
Boxes are xyxy in the frame of the trace (0..1 of the image, and beyond: hands leave the image).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.floating]
IntArray = NDArray[np.integer]

SAMPLES_PER_UTTERANCE = 16
_NO_UTTERANCE = -1


def sample_trace(
    times: FloatArray, points_xy: FloatArray, spans: FloatArray, *, samples: int = SAMPLES_PER_UTTERANCE
) -> FloatArray:
    """Mouse positions at evenly spaced times of every utterance, both ends included.

    times (n,) ascending, n >= 2; points_xy (n, 2); spans (U, 2) start and end -> (U, samples, 2).
    Linear between trace points and, like the reference, linear beyond the first and the last one as well.
    """
    times = np.asarray(times, np.float64)
    points_xy = np.asarray(points_xy, np.float64)
    if len(times) < 2:
        raise ValueError(
            f"a trace needs at least 2 points to be interpolated, but this one has {len(times)}. "
            "Leave such narratives out (read_localized_narratives(..., on_error='skip') does)."
        )
    at = _sample_times(spans, samples)
    right = np.clip(np.searchsorted(times, at), 1, len(times) - 1)
    left = right - 1
    duration = times[right] - times[left]
    # Two points at the same instant have no slope; stay where the mouse was.
    weight = np.divide(at - times[left], duration, out=np.zeros_like(at), where=duration > 0)
    return points_xy[left] + weight[..., None] * (points_xy[right] - points_xy[left])


def utterance_centers(sampled: FloatArray, spans: FloatArray) -> FloatArray:
    """Average position over each utterance's time: trapezoid rule, plain mean where the span is (nearly) a moment.

    sampled (U, samples, 2), spans (U, 2) -> (U, 2).
    """
    spans = np.asarray(spans, np.float64)
    duration = spans[:, 1] - spans[:, 0]
    mean = sampled.mean(axis=1)
    times = _sample_times(spans, sampled.shape[1])
    area = np.trapezoid(sampled, times[..., None], axis=1)
    lasting = duration >= 1e-5
    return np.where(lasting[:, None], area / np.where(lasting, duration, 1.0)[:, None], mean)


def utterance_boxes(sampled: FloatArray) -> FloatArray:
    """Smallest box around the samples of each utterance: (U, samples, 2) -> (U, 4) xyxy."""
    return np.concatenate([sampled.min(axis=1), sampled.max(axis=1)], axis=-1)


def valid_utterances(texts: Sequence[str], centers_xy: FloatArray) -> NDArray[np.bool_]:
    """Utterances that the rank alignment counts: some text, and a centre inside the image's left and top edges.

    centers_xy (U, 2) in 0..1 -> (U,) bool.
    """
    said = np.array([bool(text.strip()) for text in texts], dtype=bool)
    return said & (np.asarray(centers_xy).reshape(-1, 2) > 1e-5).all(axis=-1)


def align_by_rank(token_valid: NDArray[np.bool_], utterance_valid: NDArray[np.bool_]) -> IntArray:
    """The reference's alignment: token k of n goes to the utterance at the same fraction of the narrative.

    token_valid (T,) (False at padding, BOS, EOS), utterance_valid (U,) -> (T,) utterance index, -1 for invalid tokens
    or when there is no valid utterance. No text is compared: one filler word shifts everything after it, which
    `align_by_text` avoids.
    """
    token_valid = np.asarray(token_valid, bool)
    utterance_valid = np.asarray(utterance_valid, bool)
    result = np.full(len(token_valid), _NO_UTTERANCE, np.int64)
    tokens, utterances = int(token_valid.sum()), int(utterance_valid.sum())
    if not tokens or not utterances:
        return result
    ranks = np.cumsum(utterance_valid).astype(np.float32) / np.float32(utterances)
    utterance_position = np.where(utterance_valid, ranks, np.float32(-1))
    first, last = np.float32(1) / np.float32(utterances), np.float32(1)
    token_position = np.cumsum(token_valid).astype(np.float32) / np.float32(tokens)
    token_position = first + token_position * (last - first)
    distance = (token_position[:, None] - utterance_position[None, :]) ** 2
    # Where the reference's float32 distances tie, the first utterance wins, as argmin does.
    return np.where(token_valid, distance.argmin(axis=1), _NO_UTTERANCE)


def align_by_text(caption: str, offsets: Sequence[tuple[int, int]], utterances: Sequence[str]) -> IntArray:
    """Match utterances to the caption's words by their text, in order; a sub-word token goes where its word goes.

    offsets: character span of every token in `caption`, (0, 0) for special tokens -> (T,) utterance index, -1 for
    tokens whose word was not said. Punctuation and case do not count. The order never crosses.

    >>> align_by_text("A red car.", [(0, 1), (1, 5), (5, 9), (9, 10)], ["red", "car"]).tolist()
    [-1, 0, 1, 1]
    """
    words = [(match.start(), match.end(), _normalize(match.group())) for match in re.finditer(r"\S+", caption)]
    spoken = [(index, _normalize(word)) for index, text in enumerate(utterances) for word in text.split()]
    matched = _match_in_order([word for _, _, word in words], [word for _, word in spoken])
    word_utterance = [spoken[hit][0] if hit >= 0 else _NO_UTTERANCE for hit in matched]
    result = np.full(len(offsets), _NO_UTTERANCE, np.int64)
    current = 0
    for token, (start, end) in enumerate(offsets):
        if end <= start:
            continue
        # A piece may carry the space before its word, or be that space alone: its last character decides.
        while current < len(words) and words[current][1] < end:
            current += 1
        if current < len(words) and words[current][0] <= end:
            result[token] = word_utterance[current]
    return result


def boxes_to_pixels(boxes_xyxy: FloatArray, size_hw: tuple[int, int]) -> FloatArray:
    """Boxes in 0..1 -> whole pixels of the original image, clipped to it; see `whole_pixels`."""
    height, width = size_hw
    return whole_pixels(np.asarray(boxes_xyxy, np.float32) * np.array([width, height] * 2, np.float32), size_hw)


def whole_pixels(boxes_xyxy: FloatArray, size_hw: tuple[int, int]) -> FloatArray:
    """Boxes in pixels, clipped to the image and rounded: what the reference trains on.

    (..., 4) -> (..., 4) float32 holding integers.
    """
    height, width = size_hw
    return np.round(np.clip(np.asarray(boxes_xyxy, np.float32), 0, np.array([width, height] * 2, np.float32)))


def boxes_to_corners(boxes_xyxy: FloatArray) -> FloatArray:
    """(..., 4) xyxy -> (..., 2, 2): the two points per token that the model regresses, top-left then bottom-right."""
    return np.asarray(boxes_xyxy).reshape(*np.shape(boxes_xyxy)[:-1], 2, 2)


def _sample_times(spans: FloatArray, samples: int) -> FloatArray:
    spans = np.asarray(spans, np.float64).reshape(-1, 2)
    return np.linspace(spans[:, 0], spans[:, 1], samples, axis=-1)


def _normalize(word: str) -> str:
    word = unicodedata.normalize("NFKC", word).casefold()
    return re.sub(r"[^\w]", "", word) or word


def _match_in_order(words: Sequence[str], spoken: Sequence[str]) -> list[int]:
    """For each word the index of the spoken word it pairs with, or -1: the pairing of largest total similarity."""
    if list(words) == list(spoken):
        return list(range(len(words)))
    rows, columns = len(words), len(spoken)
    score = np.zeros((rows + 1, columns + 1))
    pair = np.array([[_similarity(word, said) for said in spoken] for word in words]).reshape(rows, columns)
    for i in range(rows - 1, -1, -1):
        for j in range(columns - 1, -1, -1):
            take = pair[i, j] + score[i + 1, j + 1] if pair[i, j] else 0.0
            score[i, j] = max(take, score[i + 1, j], score[i, j + 1])
    result = [_NO_UTTERANCE] * rows
    i = j = 0
    while i < rows and j < columns:
        if pair[i, j] and score[i, j] == pair[i, j] + score[i + 1, j + 1]:
            result[i] = j
            i, j = i + 1, j + 1
        elif score[i, j] == score[i + 1, j]:
            i += 1
        else:
            j += 1
    return result


def _similarity(word: str, said: str) -> float:
    """1 for the same word, 0.5 for an inflection or a typing slip of it ("dogs" for "dog"), else 0."""
    if word == said:
        return 1.0
    shared = 0
    for a, b in zip(word, said, strict=False):
        if a != b:
            break
        shared += 1
    return 0.5 if shared >= 3 and shared >= 0.6 * max(len(word), len(said)) else 0.0
