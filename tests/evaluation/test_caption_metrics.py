from __future__ import annotations

import numpy as np
import pytest

from pixelllm_hf.evaluation.caption_metrics import caption_metrics
from pixelllm_hf.evaluation.metric_inputs import first_of_each, to_original_xywh


def test_without_java_corpora_of_raw_captions_are_the_official_ones(golden):
    values = golden("caption_metrics")
    result = caption_metrics(
        [s["hypothesis"] for s in values["samples"]],
        [s["references"] for s in values["samples"]],
        tokenizer="ptb-py",
        meteor_variant="meteor-approx",
    )
    numbers = result.to_dict()
    for name in ("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "ROUGE-L", "CIDEr"):
        assert numbers[name] == pytest.approx(values["corpus"][name], abs=1e-9)
    assert result.variant == "PTB tokens (Python rules); METEOR≈ (exact+stem)"


def test_location_captions_score_as_in_the_official_evaluator(golden):
    part = golden("caption_metrics")["location"]
    images = first_of_each([{**e, "image_id": e["target"]["image_id"]} for e in part["examples"]])
    hypotheses, references = [], []
    for image in images:
        target = image["target"]
        # Boxes of padding, and those outside the image, have nothing positive left once they are clipped to it.
        boxes = to_original_xywh(target["boxes"], target["size"], target["orig_size"])
        for i in np.flatnonzero(np.any(boxes > 0, axis=1)):
            hypotheses.append(image["prediction"]["captions"][i])
            references.append([target["captions"][i]])
    assert hypotheses == [caption for _, caption in part["kept"]]
    result = caption_metrics(hypotheses, references, tokenizer="ptb-py", with_meteor=False)
    np.testing.assert_allclose(result.bleu.corpus, part["metrics"]["BLEU-4"], atol=1e-9)
    assert result.cider.corpus == pytest.approx(part["metrics"]["CIDEr"], abs=1e-9)
    assert result.rouge_l.corpus == pytest.approx(part["metrics"]["ROUGE_L"], abs=1e-9)
    assert "METEOR" not in result.to_dict()
