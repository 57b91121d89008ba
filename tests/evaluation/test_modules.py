from __future__ import annotations

import pytest

from pixelllm_hf.evaluation.metric_inputs import MetricInputError
from pixelllm_hf.evaluation.modules import NAMES, module_path

SQUARE = [0.0, 0.0, 5.0, 5.0]
MASK = {"size": [2, 2], "counts": "022"}  # background 0, object 2, background 2
INPUTS = {
    "bleu": (["a red bus"], [["a red bus"]]),
    "cider": (["a red bus", "two dogs"], [["a red bus"], ["two dogs"]]),
    "rouge_l": (["A red bus."], [["a red bus"]]),
    "meteor": (["a red bus"], [["a red bus"]]),
    "referring_precision": ([SQUARE], [SQUARE]),
    "segmentation_iou": ([MASK], [MASK]),
    "dense_captioning_map": (
        [{"boxes": [SQUARE], "captions": ["a cat"], "scores": [0.5]}, {"boxes": [], "captions": [], "scores": []}],
        [{"boxes": [SQUARE], "captions": ["a cat"]}, {"boxes": [], "captions": []}],
    ),
    "local_bipartite_matching": ([[[0, 0, 0.5, 0.5]], []], [[[0, 0, 0.5, 0.5, 0.25]], [[0, 0, 0.5, 0.5, 0.25]]]),
}
EXPECTED = {
    "bleu": ("BLEU-1", 1),
    "cider": ("CIDEr", 6.25),  # three words reach 7.5, two reach 5
    "rouge_l": ("ROUGE-L", 1),
    "meteor": ("METEOR", 1),
    "referring_precision": ("box_Precision@1", 1),
    "segmentation_iou": ("seg_AP", 1),
    "dense_captioning_map": ("mAP", 1),
    "local_bipartite_matching": ("LBM_k1", 0),
}
# what runs everywhere, and quickly
OPTIONS = {
    **dict.fromkeys(("bleu", "cider", "rouge_l"), {"tokenizer": "ptb-py"}),
    "meteor": {"tokenizer": "ptb-py", "meteor_variant": "meteor-approx"},
    "dense_captioning_map": {"meteor_variant": "meteor-approx"},
}


@pytest.fixture(scope="module")
def load(tmp_path_factory):
    """evaluate.load without a network and with a cache of its own."""
    cache = str(tmp_path_factory.mktemp("evaluate"))
    with pytest.MonkeyPatch.context() as patch:
        for name in ("HF_HUB_OFFLINE", "HF_EVALUATE_OFFLINE", "HF_DATASETS_OFFLINE"):
            patch.setenv(name, "1")
        evaluate = pytest.importorskip("evaluate")
        yield lambda name: evaluate.load(module_path(name), cache_dir=cache)


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_a_module_loads_offline_and_names_its_variant(load, name):
    predictions, references = INPUTS[name]
    result = load(name).compute(predictions=predictions, references=references, **OPTIONS.get(name, {}))
    key, value = EXPECTED[name]
    assert result[key] == pytest.approx(value, abs=1e-6)
    assert result["variant"]


def test_point_l1_has_the_official_mean(load, golden):
    values = golden("point_l1")
    predictions, references = [], []
    for case in values["cases"]:
        points = case["point_coords"]
        if not isinstance(points[0][0][0], list):
            points = [[[point] for point in caption] for caption in points]
        mask = [[bool(valid) for valid in caption] for caption in case["token_mask"]]
        predictions.append(points)
        references.append({"points": case["points"], "token_mask": mask, "size_wh": case["size_h_w"][::-1]})
    result = load("point_l1").compute(predictions=predictions, references=references)
    assert result["point_l1"] == pytest.approx(values["mean"], abs=1e-6)


def test_every_module_is_tested():
    assert {*EXPECTED, "point_l1"} == set(NAMES)


def test_an_unknown_module_is_refused():
    with pytest.raises(MetricInputError, match="cider"):
        module_path("spice")
