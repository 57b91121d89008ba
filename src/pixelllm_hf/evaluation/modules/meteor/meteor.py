"""METEOR of captions, as a module of `evaluate`."""

import datasets
import evaluate

from pixelllm_hf.evaluation.meteor import meteor
from pixelllm_hf.evaluation.ptb_tokenizer import tokenize_samples

_FEATURES = {
    "predictions": datasets.Value("string"),
    "references": datasets.List(datasets.Value("string")),
}


class MeteorModule(evaluate.Metric):
    """One caption and a list of reference captions per sample, raw text.

    `meteor_variant` as `variant` of `meteor.meteor`; `tokenizer` as in `ptb_tokenizer.tokenize`, "none" for raw text.
    """

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=__doc__,
            citation="",
            inputs_description=type(self).__doc__,
            features=datasets.Features(_FEATURES),
        )

    def _compute(self, predictions, references, tokenizer=None, meteor_variant=None):
        name = "raw text"
        if tokenizer != "none":
            predictions, references, name = tokenize_samples(predictions, references, tokenizer=tokenizer)
        result = meteor(predictions, references, variant=meteor_variant)
        return {**result.to_dict(), "variant": f"{result.variant} on {name}"}
