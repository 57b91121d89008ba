"""The caption metrics of COCO together: BLEU, ROUGE-L, CIDEr and METEOR of one set of captions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pixelllm_hf.evaluation.bleu import Bleu, bleu
from pixelllm_hf.evaluation.cider import Cider, cider
from pixelllm_hf.evaluation.meteor import Meteor, meteor
from pixelllm_hf.evaluation.metric_inputs import caption_pairs
from pixelllm_hf.evaluation.ptb_tokenizer import tokenize_samples
from pixelllm_hf.evaluation.rouge_l import RougeL, rouge_l


@dataclass(frozen=True)
class CaptionMetrics:
    """All of one set; `meteor` is None if it was not asked for. Every part names its own variant."""

    bleu: Bleu
    rouge_l: RougeL
    cider: Cider
    meteor: Meteor | None
    count: int
    variant: str

    def to_dict(self) -> dict[str, Any]:
        """Numbers for a table."""
        numbers = {**self.bleu.to_dict(), **self.rouge_l.to_dict(), **self.cider.to_dict()}
        if self.meteor is not None:
            numbers |= self.meteor.to_dict()
        return {**numbers, "count": self.count, "variant": self.variant}


def caption_metrics(
    hypotheses: Sequence[str],
    references: Sequence[Sequence[str]],
    *,
    with_meteor: bool = True,
    tokenizer: str | None = None,
    meteor_variant: str | None = None,
) -> CaptionMetrics:
    """Tokenise raw captions and score them, one hypothesis and one or more references per sample, as one corpus.

    tokenizer and meteor_variant as in `ptb_tokenizer.tokenize` and `meteor.meteor`; by default the best that can run.
    METEOR too gets the tokens, as in COCO's evaluation; dense captioning gives it raw text.

    >>> result = caption_metrics(["A red bus."], [["a red bus"]], tokenizer="ptb-py", meteor_variant="meteor-approx")
    >>> result.rouge_l.corpus, result.meteor.corpus
    (1.0, 1.0)
    """
    hypotheses, samples, name = tokenize_samples(*caption_pairs(hypotheses, references), tokenizer=tokenizer)
    scored = meteor(hypotheses, samples, variant=meteor_variant) if with_meteor else None
    return CaptionMetrics(
        bleu=bleu(hypotheses, samples, tokenizer=name),
        rouge_l=rouge_l(hypotheses, samples, tokenizer=name),
        cider=cider(hypotheses, samples, tokenizer=name),
        meteor=scored,
        count=len(hypotheses),
        variant=f"{name}; {scored.variant}" if scored else name,
    )
