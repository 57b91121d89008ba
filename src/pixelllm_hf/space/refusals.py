"""What the demo says no to, in words for the visitor."""

from __future__ import annotations

import html
from collections.abc import Iterator
from contextlib import contextmanager

from pixelllm_hf.inference import ModelError, TooSlowError, first_lines
from pixelllm_hf.processing.image_reading import ImageError
from pixelllm_hf.processing.prompt_locations import PromptError


class RefusedError(ValueError):
    """A request that this demo does not take; the message says what it takes."""


# Their messages are meant for whoever asked; anything else is a mistake of ours and stays in the log.
FOR_VISITORS = (RefusedError, ImageError, PromptError, ModelError, TooSlowError)


def for_notice(error: Exception) -> str:
    """Its message as HTML, which notices are shown as: messages quote what was sent, so markup in it is escaped."""
    return html.escape(first_lines(error), quote=False)


@contextmanager
def as_gradio_error() -> Iterator[None]:
    """Errors for visitors become notices of the page and error messages of the API."""
    import gradio as gr

    try:
        yield
    except FOR_VISITORS as error:
        raise gr.Error(for_notice(error), print_exception=False) from error


__all__ = ["FOR_VISITORS", "RefusedError", "as_gradio_error", "for_notice"]
