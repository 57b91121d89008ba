"""Asking a model about images: what the command line, the scripts and the demo share."""

from __future__ import annotations

from .captioner import Captioner
from .device import check_device_name
from .errors import ModelError, TooSlowError, first_lines
from .model_source import EMBEDDED, ModelSource, check_model_name, default_model
from .request import BoxXYXY, Points, Request

__all__ = [
    "EMBEDDED",
    "BoxXYXY",
    "Captioner",
    "ModelError",
    "ModelSource",
    "Points",
    "Request",
    "TooSlowError",
    "check_device_name",
    "check_model_name",
    "default_model",
    "first_lines",
]
