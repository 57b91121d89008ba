from __future__ import annotations

import math

import numpy as np
import pytest

from pixelllm_hf.evaluation.rouge_l import common_subsequence_length, rouge_l


def test_samples_and_corpus_score_as_in_pycocoevalcap(golden):
    values = golden("caption_metrics")
    samples = values["samples"]
    result = rouge_l([s["tokens_hypothesis"] for s in samples], [s["tokens_references"] for s in samples])
    np.testing.assert_allclose(result.samples, [s["ROUGE-L"] for s in samples], atol=1e-9)
    assert result.corpus == pytest.approx(values["corpus"]["ROUGE-L"], abs=1e-9)


def test_precision_and_recall_may_come_from_different_references():
    both = rouge_l(["a b"], [["a b c d e f", "a"]]).corpus
    assert both == 1
    assert all(rouge_l(["a b"], [[one]]).corpus < 1 for one in ("a b c d e f", "a"))


def test_a_subsequence_may_skip_but_not_swap():
    assert common_subsequence_length("a b c d".split(), "d c a b".split()) == 2


def test_empty_captions_agree_and_an_empty_set_is_nan():
    assert rouge_l([""], [[""]]).corpus == 1
    assert rouge_l([""], [["a"]]).corpus == 0
    assert math.isnan(rouge_l([], []).corpus)
