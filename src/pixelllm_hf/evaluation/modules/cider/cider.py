"""CIDEr of captions, as a module of `evaluate`."""

from pixelllm_hf.evaluation.cider import cider
from pixelllm_hf.evaluation.modules import declared_metric
from pixelllm_hf.evaluation.ptb_tokenizer import tokenize_samples


class CiderModule(declared_metric.DeclaredMetric):
    """One caption and a list of reference captions per sample, raw text; `tokenizer` as in `ptb_tokenizer.tokenize`."""

    columns = declared_metric.CAPTIONS

    def _compute(self, predictions, references, tokenizer=None):
        hypotheses, samples, name = tokenize_samples(predictions, references, tokenizer=tokenizer)
        return cider(hypotheses, samples, tokenizer=name).to_dict()
