"""CIDEr of captions, as a module of `evaluate`."""

import datasets
import evaluate

from pixelllm_hf.evaluation.cider import cider
from pixelllm_hf.evaluation.ptb_tokenizer import tokenize_samples

_FEATURES = {
    "predictions": datasets.Value("string"),
    "references": datasets.List(datasets.Value("string")),
}


class CiderModule(evaluate.Metric):
    """One caption and a list of reference captions per sample, raw text; `tokenizer` as in `ptb_tokenizer.tokenize`."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=__doc__,
            citation="",
            inputs_description=type(self).__doc__,
            features=datasets.Features(_FEATURES),
        )

    def _compute(self, predictions, references, tokenizer=None):
        hypotheses, samples, name = tokenize_samples(predictions, references, tokenizer=tokenizer)
        return cider(hypotheses, samples, tokenizer=name).to_dict()
