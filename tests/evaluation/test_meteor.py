from __future__ import annotations

import math

import numpy as np
import pytest

from pixelllm_hf.evaluation import meteor as meteor_module
from pixelllm_hf.evaluation.meteor import VARIANTS, corpus_meteor, meteor, meteor_of_statistics
from pixelllm_hf.evaluation.metric_inputs import MetricInputError

from .meteor_deviation import deviations, main


def statistics_of(samples):
    return np.array([sample["METEOR_statistics"] for sample in samples])


def test_scores_follow_from_the_statistics_of_the_jar(golden):
    samples = golden("caption_metrics")["samples"]
    expected = [sample["METEOR"] for sample in samples]
    np.testing.assert_allclose(meteor_of_statistics(statistics_of(samples)), expected, atol=1e-12)


def test_the_corpus_follows_from_the_sum_of_the_statistics(golden):
    values = golden("caption_metrics")
    statistics = statistics_of(values["samples"])
    assert corpus_meteor(statistics) == pytest.approx(values["corpus"]["METEOR"], abs=1e-12)
    weights = np.bincount(values["subset"]["ids"], minlength=len(statistics))
    assert corpus_meteor(statistics, weights) == pytest.approx(values["subset"]["corpus"]["METEOR"], abs=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize(("variant", "needs"), [("meteor-py", "pycocoevalcap"), ("meteor-jar", "java")])
def test_with_the_package_all_statistics_are_those_of_the_jar(golden, golden_folder, variant, needs, request):
    request.getfixturevalue(needs)
    values = golden("caption_metrics")
    samples = values["samples"]
    result = meteor(
        [s["tokens_hypothesis"] for s in samples], [s["tokens_references"] for s in samples], variant=variant
    )
    np.testing.assert_array_equal(result.statistics, statistics_of(samples))
    assert result.corpus == pytest.approx(values["corpus"]["METEOR"], abs=1e-12)
    for deviation in deviations(golden_folder, variant):
        assert deviation.largest < 1e-12


def test_without_the_package_the_deviation_is_the_documented_one(golden_folder):
    tokens, raw, dense = deviations(golden_folder, "meteor-approx")
    assert tokens.mean_absolute < 0.06
    assert raw.mean_absolute < 0.06
    assert dense.mean_absolute < 0.002
    assert dense.decisions <= 4


def test_the_deviations_are_printed_with_their_variant(golden_folder, capsys):
    assert main([str(golden_folder), "--variant", "meteor-approx"]) == 0
    assert VARIANTS["meteor-approx"] in capsys.readouterr().out


def test_the_best_reference_counts():
    sample = meteor(["a red bus"], [["two dogs", "a red bus", "a bus"]], variant="meteor-approx")
    assert sample.samples.tolist() == [1]


def test_empty_captions_score_zero_and_an_empty_set_nan():
    assert meteor(["", "a"], [["a cat"], [""]], variant="meteor-approx").samples.tolist() == [0, 0]
    empty = meteor([], [])  # must not start the jar, which would wait forever
    assert math.isnan(empty.corpus)
    assert empty.samples.shape == (0,)


def test_the_separator_of_the_jar_in_a_caption_changes_nothing():
    assert meteor(["a ||| cat"], [["a cat"]], variant="meteor-approx").samples.tolist() == [1]


@pytest.mark.slow
def test_the_jar_takes_line_feeds_separators_and_nothing(java):
    result = meteor(["a ||| cat", "a\ncat", ""], [["a cat"], ["a cat"], ["a cat"]], variant="meteor-jar")
    assert result.samples.tolist() == [1, 1, 0]


def test_the_variant_in_use_is_named():
    assert meteor(["a"], [["a"]], variant="meteor-approx").variant == "METEOR≈ (exact+stem)"
    with pytest.raises(MetricInputError, match="meteor-approx"):
        meteor(["a"], [["a"]], variant="exact")


def test_a_variant_that_cannot_run_says_what_is_missing(monkeypatch):
    monkeypatch.setattr(meteor_module, "installed_folder", lambda: None)
    monkeypatch.setattr(meteor_module, "jar_problem", lambda: "there is no java on the PATH")
    assert meteor_module.default_variant() == "meteor-approx"
    with pytest.raises(MetricInputError, match="pip install pycocoevalcap"):
        meteor(["a"], [["a"]], variant="meteor-py")
    with pytest.raises(MetricInputError, match="no java"):
        meteor(["a"], [["a"]], variant="meteor-jar")
