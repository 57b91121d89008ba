"""The linked viewer: an image and its captions, where each word and its place light up together."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

import gradio as gr

from pixelllm_hf.processing.draw_objects import OBJECT_COLOURS

# One function body for the page, in this order.
_SCRIPTS = ("geometry.js", "stage.js", "answer_list.js", "announcer.js", "drawing.js", "playback.js", "viewer.js")


def LinkedViewer(value: Mapping[str, Any] | None = None, *, placeholder: str = "", **options: Any) -> gr.HTML:
    """A gradio component whose value is a view (see `build_view`) or None.

    Its event `submit` brings what the visitor drew, in pixels of the original image:

        def ask(event: gr.EventData):
            event._data  # {"box": [x0, y0, x1, y1]} or {"point": [x, y]}

        viewer.submit(ask, ..., show_progress="hidden")

    A listener that streams gives it growing views of the same `ShownImage`; the page only adds what is new.
    Listeners that write to it want show_progress="hidden": gradio's own progress would lie over the image.

    placeholder: what is written where the image will be; options: those of `gr.HTML`.
    A function and no subclass: gradio writes a .pyi file beside the source of every component class.
    """
    return gr.HTML(
        value=value,
        html_template=_asset("viewer.html"),
        js_on_load=_script(),
        apply_default_css=False,
        container=True,
        placeholder=placeholder,
        **options,
    )


def _script() -> str:
    # The styles are set once by the script: gradio would compile a css_template anew with every streamed word.
    constants = {
        "STYLES": _asset("viewer.css"),
        "COLOURS": [f"rgb({red}, {green}, {blue})" for red, green, blue in OBJECT_COLOURS],
    }
    head = "".join(f"const {name} = {json.dumps(constant)};\n" for name, constant in constants.items())
    return '"use strict";\n' + head + "\n".join(_asset(name) for name in _SCRIPTS)


def _asset(name: str) -> str:
    return (files(__package__) / "viewer_assets" / name).read_text("utf-8")


__all__ = ["LinkedViewer"]
