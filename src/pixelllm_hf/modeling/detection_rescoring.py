"""Scores of detections that also count how likely their captions are (official.md#rescoring)."""

from __future__ import annotations

import torch
from torch import Tensor


def rescore_with_captions(scores: Tensor, caption_log_probs: Tensor) -> Tensor:
    """The geometric mean of detection score and caption probability, both (…); padding and rejected boxes give 0.

    >>> rescore_with_captions(torch.tensor([0.81, -1.0]), torch.zeros(2)).tolist()
    [0.8999999761581421, 0.0]
    """
    return (scores.clamp(min=0) * caption_log_probs.float().exp()).sqrt()


def rescore_with_beams(scores: Tensor, beam_log_probs: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """The best pairs of a detection and one of its beams: scores (B,N), beam_log_probs (B,N,K) -> (B,count) each.

    Gives the new scores, best first, the detection of every pair and its beam. Of equal scores the first pair wins; a
    detection may come up more than once, with different captions.
    """
    pairs = rescore_with_captions(scores[..., None], beam_log_probs).flatten(1)
    best, order = pairs.sort(dim=1, descending=True, stable=True)
    best, order = best[:, :count], order[:, :count]
    beams = beam_log_probs.shape[-1]
    return best, torch.div(order, beams, rounding_mode="floor"), order % beams


__all__ = ["rescore_with_beams", "rescore_with_captions"]
