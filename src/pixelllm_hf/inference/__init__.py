"""Asking a model about pictures: what the command line, the scripts and the demo share."""

from __future__ import annotations

from .captioner import Captioner
from .errors import ModelError, TooSlowError, first_lines
from .model_source import EMBEDDED
from .request import Box, Points, Request

__all__ = ["EMBEDDED", "Box", "Captioner", "ModelError", "Points", "Request", "TooSlowError", "first_lines"]
