"""ROUGE-L of captions, as a module of `evaluate`."""

import datasets
import evaluate

from pixelllm_hf.evaluation.ptb_tokenizer import tokenize_samples
from pixelllm_hf.evaluation.rouge_l import rouge_l

_FEATURES = {
    "predictions": datasets.Value("string"),
    "references": datasets.List(datasets.Value("string")),
}


class RougeLModule(evaluate.Metric):
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
        return rouge_l(hypotheses, samples, tokenizer=name).to_dict()
