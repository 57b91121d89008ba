"""The caption metrics of COCO with intervals: images are redrawn, and what belongs to a corpus is computed again."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from pixelllm_hf.evaluation.bleu import bleu_of_statistics
from pixelllm_hf.evaluation.bootstrap import RESAMPLES, Estimate, ratio_of_sums, resampled
from pixelllm_hf.evaluation.caption_metrics import caption_metrics
from pixelllm_hf.evaluation.meteor import corpus_meteor


def caption_estimates(
    hypotheses: Sequence[str],
    references: Sequence[Sequence[str]],
    scene_of_each: Sequence[int],
    *,
    with_meteor: bool = True,
    meteor_variant: str | None = None,
    resamples: int = RESAMPLES,
) -> tuple[dict[str, Estimate], tuple[str, ...]]:
    """-> the metrics and how they were made. `scene_of_each` (N,) counts from 0 without gaps; scenes are redrawn.

    CIDEr keeps the document frequencies of the full set in every draw.
    """
    result = caption_metrics(hypotheses, references, with_meteor=with_meteor, meteor_variant=meteor_variant)
    scene = np.asarray(scene_of_each, np.int64)
    scenes = int(scene.max()) + 1 if len(scene) else 0
    counted = np.bincount(scene, minlength=scenes)

    def mean(samples: np.ndarray) -> Estimate:
        return ratio_of_sums(np.bincount(scene, samples, scenes), counted, resamples=resamples)

    again = partial(resampled, scenes=scenes, count=len(scene), resamples=resamples)
    estimates = {"CIDEr": mean(result.cider.samples)}
    if result.meteor is not None:
        statistics = result.meteor.statistics
        estimates |= again(
            {"METEOR": result.meteor.corpus}, lambda weights: [corpus_meteor(statistics, weights[scene])]
        )
    sums = result.bleu.statistics
    bleus = {f"BLEU-{n}": float(value) for n, value in enumerate(result.bleu.corpus, 1)}
    estimates |= again(bleus, lambda weights: bleu_of_statistics(weights[scene] @ sums).tolist())
    estimates["ROUGE-L"] = mean(result.rouge_l.samples)
    meteor_note = (result.meteor.variant,) if result.meteor is not None else ("METEOR was not computed",)
    return estimates, (*meteor_note, f"tokenizer {result.variant.split(';')[0]}")
