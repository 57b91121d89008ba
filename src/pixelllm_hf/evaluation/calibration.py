"""Calibration of how sure locations are: settings of the point head, fitted on captions whose phrases have boxes.

Fit on photographs that are neither trained nor reported on, else the numbers flatter the model.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from pixelllm_hf.evaluation.certainty import WordCertainties, best_logistic, best_scale_factor, logit
from pixelllm_hf.files import atomic_text


def fitted_settings(head: Any, images: Sequence[WordCertainties]) -> dict[str, float]:
    """Entries of a point head's config that bring what it says, with the settings in `head`, nearest to the truth."""
    settings: dict[str, float] = {}
    if head.predict_scale:
        settings["scale_factor"] = head.scale_factor * best_scale_factor(images)
    if head.predict_visual:
        slope, bias = best_logistic(images)
        if slope <= 0:
            raise ValueError(
                f"words that are more likely to have a location, by what the model says, have one less often (slope "
                f"{slope:.3g}): it has not learnt that yet. Train it with visual_labels first."
            )
        settings["visual_temperature"] = head.visual_temperature / slope
        settings["visual_bias"] = head.visual_bias * slope + bias
    return settings


def as_calibrated(head: Any, images: Sequence[WordCertainties], settings: dict[str, float]) -> list[WordCertainties]:
    """What the model would have said with the new settings."""
    changed = []
    for image in images:
        if "scale_factor" in settings:
            image = replace(image, spreads=image.spreads * (settings["scale_factor"] / head.scale_factor))
        if "visual_temperature" in settings:
            raw = (logit(image.probs) - head.visual_bias) * head.visual_temperature
            z = raw / settings["visual_temperature"] + settings["visual_bias"]
            image = replace(image, probs=1 / (1 + np.exp(-z)))
        changed.append(image)
    return changed


def save_settings(folder: Path, settings: dict[str, float]) -> None:
    """Write the settings into the `config.json` of a model folder; all else stays as it is."""
    file = folder / "config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    config["point_head_config"] |= settings
    with atomic_text(file) as text:
        text.write(json.dumps(config, indent=2, sort_keys=True) + "\n")


__all__ = ["as_calibrated", "fitted_settings", "save_settings"]
