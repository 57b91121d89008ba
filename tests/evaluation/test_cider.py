from __future__ import annotations

import math

import numpy as np
import pytest

from pixelllm_hf.evaluation.cider import cider


def columns(samples):
    return [s["tokens_hypothesis"] for s in samples], [s["tokens_references"] for s in samples]


def test_samples_and_corpus_score_as_in_pycocoevalcap(golden):
    values = golden("caption_metrics")
    result = cider(*columns(values["samples"]))
    np.testing.assert_allclose(result.samples, [s["CIDEr"] for s in values["samples"]], atol=1e-9)
    assert result.corpus == pytest.approx(values["corpus"]["CIDEr"], abs=1e-9)


def test_a_part_of_the_set_has_weights_of_its_own(golden):
    values = golden("caption_metrics")
    part = [values["samples"][i] for i in values["subset"]["ids"]]
    assert cider(*columns(part)).corpus == pytest.approx(values["subset"]["corpus"]["CIDEr"], abs=1e-9)


def test_a_corpus_of_one_sample_scores_zero():
    assert cider(["a red bus"], [["a red bus"]]).corpus == 0


def test_repeating_a_word_does_not_help():
    references = [["a red bus on a road"], ["two dogs in the grass"]]
    once, often = (cider([text, "x"], references).samples[0] for text in ("red bus", "red red red bus"))
    assert often < once


def test_an_empty_set_is_nan():
    assert math.isnan(cider([], []).corpus)
