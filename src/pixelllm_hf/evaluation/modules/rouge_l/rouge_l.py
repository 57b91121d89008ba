"""ROUGE-L of captions, as a module of `evaluate`."""

from pixelllm_hf.evaluation.modules import declared_metric
from pixelllm_hf.evaluation.ptb_tokenizer import tokenize_samples
from pixelllm_hf.evaluation.rouge_l import rouge_l


class RougeLModule(declared_metric.DeclaredMetric):
    """One caption and a list of reference captions per sample, raw text; `tokenizer` as in `ptb_tokenizer.tokenize`."""

    columns = declared_metric.CAPTIONS

    def _compute(self, predictions, references, tokenizer=None):
        hypotheses, samples, name = tokenize_samples(predictions, references, tokenizer=tokenizer)
        return rouge_l(hypotheses, samples, tokenizer=name).to_dict()
