"""METEOR of captions, as a module of `evaluate`."""

from pixelllm_hf.evaluation.meteor import meteor
from pixelllm_hf.evaluation.modules import declared_metric
from pixelllm_hf.evaluation.ptb_tokenizer import tokenize_samples


class MeteorModule(declared_metric.DeclaredMetric):
    """One caption and a list of reference captions per sample, raw text.

    `meteor_variant` as `variant` of `meteor.meteor`; `tokenizer` as in `ptb_tokenizer.tokenize`, "none" for raw text.
    """

    columns = declared_metric.CAPTIONS

    def _compute(self, predictions, references, tokenizer=None, meteor_variant=None):
        name = "raw text"
        if tokenizer != "none":
            predictions, references, name = tokenize_samples(predictions, references, tokenizer=tokenizer)
        result = meteor(predictions, references, variant=meteor_variant)
        return {**result.to_dict(), "variant": f"{result.variant} on {name}"}
