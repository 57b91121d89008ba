"""BLEU-1 to BLEU-4 of captions, as a module of `evaluate`."""

from pixelllm_hf.evaluation.bleu import bleu
from pixelllm_hf.evaluation.modules import declared_metric
from pixelllm_hf.evaluation.ptb_tokenizer import tokenize_samples


class BleuModule(declared_metric.DeclaredMetric):
    """One caption and a list of reference captions per sample, raw text; `tokenizer` as in `ptb_tokenizer.tokenize`."""

    columns = declared_metric.CAPTIONS

    def _compute(self, predictions, references, tokenizer=None):
        hypotheses, samples, name = tokenize_samples(predictions, references, tokenizer=tokenizer)
        return bleu(hypotheses, samples, tokenizer=name).to_dict()
