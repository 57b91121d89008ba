"""Trace error of teacher-forced captions, as the reference evaluates it."""

from __future__ import annotations

import numpy as np


def point_l1(
    predictions: np.ndarray, targets: np.ndarray, token_mask: np.ndarray, size_wh: tuple[float, float]
) -> float:
    """Mean distance of one image's predicted points to the traced ones, in units of the image's sides.

    predictions (N,T,2) or (N,T,P,2) and targets (N,T,G,2) of the image's N captions, pixels of the resized image of
    `size_wh`; token_mask (N,T). The distance of two points is the mean of |dx| and |dy|; a predicted point counts its
    nearest target, a token the mean over its points. Tokens outside the mask or whose targets are all zero (or below)
    have no location and do not count. An image without any gives 0, and the reference lets that enter its mean.

    >>> point_l1(np.array([[[10.0, 20.0]]]), np.array([[[[20.0, 20.0]]]]), np.array([[True]]), (100, 100))
    0.04999999950000001
    """
    predictions = np.asarray(predictions, np.float64)
    if predictions.ndim == 3:
        predictions = predictions[:, :, None]
    targets = np.asarray(targets, np.float64)
    if predictions.shape[:2] != targets.shape[:2] or targets.shape[:2] != np.shape(token_mask):
        raise ValueError(
            "predictions, targets and token_mask must have the same captions and tokens, but their shapes are "
            f"{predictions.shape}, {targets.shape} and {np.shape(token_mask)}."
        )
    scale = np.asarray(size_wh, np.float64)
    valid = np.asarray(token_mask, bool) & (targets.max(axis=(2, 3)) > 0)
    apart = np.abs(predictions[:, :, :, None] - targets[:, :, None]) / scale  # N,T,P,G,2
    per_token = apart.mean(-1).min(-1).mean(-1)
    return float(np.where(valid, per_token, 0.0).sum() / (valid.sum() + 1e-8))
