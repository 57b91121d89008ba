from __future__ import annotations

import math

import numpy as np
import pytest

from pixelllm_hf.evaluation.bleu import bleu, bleu_of_statistics


def columns(samples):
    return [s["tokens_hypothesis"] for s in samples], [s["tokens_references"] for s in samples]


def test_every_sample_scores_as_in_pycocoevalcap(golden):
    samples = golden("caption_metrics")["samples"]
    expected = [[sample[f"BLEU-{n}"] for n in range(1, 5)] for sample in samples]
    np.testing.assert_allclose(bleu(*columns(samples)).samples, expected, atol=1e-9)


@pytest.mark.parametrize(
    ("key", "chosen"), [("corpus", None), ("corpus_of_first_sample_only", [0]), ("corpus_of_fifth_sample_only", [4])]
)
def test_every_corpus_scores_as_in_pycocoevalcap(golden, key, chosen):
    values = golden("caption_metrics")
    samples = values["samples"] if chosen is None else [values["samples"][i] for i in chosen]
    expected = [values[key][f"BLEU-{n}"] for n in range(1, 5)]
    np.testing.assert_allclose(bleu(*columns(samples)).corpus, expected, atol=1e-9)


def test_the_corpus_is_the_formula_on_the_sum_of_the_samples(golden):
    result = bleu(*columns(golden("caption_metrics")["samples"]))
    np.testing.assert_array_equal(bleu_of_statistics(result.statistics.sum(axis=0)), result.corpus)


def test_the_shorter_of_two_equally_close_references_counts():
    assert bleu(["a b c"], [["a b c d", "a b"]]).statistics[0, 1] == 2


def test_an_empty_hypothesis_scores_zero_and_an_empty_set_nan():
    assert bleu([""], [["a b"]]).corpus.tolist() == [0, 0, 0, 0]
    assert math.isnan(bleu([], []).corpus[0])
