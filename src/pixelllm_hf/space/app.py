"""The page: which components there are, and which event calls what."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

from .downloads import FORMATS, SIDES
from .endpoints import ANSWERS, add_endpoints
from .example_pictures import ExamplePictures
from .page_events import PageEvents, Visitor, lacks, task_choices
from .sealed_blocks import SealedBlocks
from .service import Service
from .shared_pictures import SharedPictures
from .viewer import LinkedViewer

TITLE = "PixelLLM: captions whose words know their place"
# Fonts of the visitor's machine: nothing has to be fetched.
THEME = gr.themes.Default(
    primary_hue="blue",
    font=["system-ui", "sans-serif"],
    font_mono=["ui-monospace", "monospace"],
)
CSS = """
.gradio-container { max-width: 1200px !important; }
#ask { min-height: 44px; }
.place-fields { flex-wrap: wrap; }
.place-fields > * { min-width: 5.5em !important; }
"""
_OTHERS = "others"  # the queue of what asks no model
_TO_ADDRESS = "(link) => link.startsWith('?') ? window.location.origin + window.location.pathname + link : link"
# What visitors do is heard, but is no endpoint; values come unchecked and are checked by the listeners.
_PRIVATE: dict[str, Any] = {"api_visibility": "private", "preprocess": False}


def build_page(service: Service, examples: ExamplePictures, shared: SharedPictures, uploads: Path) -> gr.Blocks:
    """The page with its API, ready to be launched. uploads: the folder in which gradio keeps uploaded files."""
    events = PageEvents(service, examples, shared, uploads)
    lacking = service.lacking(None)
    with SealedBlocks(title=TITLE, analytics_enabled=False) as page:
        gr.Markdown(f"# {TITLE}\nPoint at a word to see its place, point at the picture to see the word.")
        answered, linked, visitor = gr.State(None, time_to_live=3600), gr.State(None), gr.State(Visitor())
        with gr.Row():
            with gr.Column(scale=2, min_width=300):
                picture = gr.Image(
                    label="Picture", type="filepath", image_mode=None, sources=["upload", "clipboard"],
                    height=220, buttons=[], elem_id="picture",
                )  # fmt: skip
                offered = gr.Examples(
                    [[str(file)] for file in examples.files.values()], [picture], api_visibility="private",
                    example_labels=list(examples.files),
                )  # fmt: skip
                task = gr.Radio(task_choices(lacking), value="caption", label="Task", elem_id="task")
                note_on_tasks = gr.Markdown(lacks(lacking), elem_id="lacks")
                phrase = gr.Textbox(
                    label="What to find", placeholder="the red car", max_length=service.limits.letters,
                    elem_id="phrase", visible=False,
                )  # fmt: skip
                ask = gr.Button("Ask", variant="primary", elem_id="ask")
                with gr.Accordion("Place, beams, model", open=False):
                    gr.Markdown("A place in pixels of the picture; drawing on the picture fills this in.")
                    with gr.Row(elem_classes="place-fields"):
                        box = [
                            gr.Number(label=side, minimum=0, elem_id=f"box-{side}")
                            for side in ("left", "top", "right", "bottom")
                        ]
                    with gr.Row(elem_classes="place-fields"):
                        point = [gr.Number(label=f"point {axis}", minimum=0, elem_id=f"point-{axis}") for axis in "xy"]
                    beams = gr.Slider(
                        1, service.limits.beams, value=1, step=1, label="Beams (1 streams the words)", elem_id="beams"
                    )
                    model = gr.Dropdown(
                        service.models, value=service.models[0], label="Model", elem_id="model",
                        interactive=len(service.models) > 1,
                    )  # fmt: skip
            with gr.Column(scale=3, min_width=300):
                viewer = LinkedViewer(
                    placeholder="Choose a picture. Then ask, draw a box on it, or click a point.", elem_id="viewer"
                )
                status = gr.Markdown("", elem_id="status", min_height=48)
                with gr.Accordion("Results as a table", open=False):
                    table = gr.Dataframe(
                        headers=["#", "text", "score", "box"], datatype=["number", "str", "str", "str"],
                        interactive=False, wrap=True, elem_id="table",
                    )  # fmt: skip
                with gr.Accordion("Take it with you", open=False):
                    with gr.Row():
                        form = gr.Radio(list(FORMATS), value=FORMATS[0], label="Format", elem_id="format")
                        side = gr.Slider(
                            *SIDES, value=1600, step=32, label="Drawing's longer side, pixels", elem_id="side"
                        )
                    make = gr.Button("Make the file", elem_id="make-file")
                    file = gr.File(label="File", interactive=False, elem_id="file")
                    text = gr.Code(
                        label="To copy", language="json", visible=False, interactive=False, max_lines=16, elem_id="text"
                    )
                    drawing = gr.Image(
                        label="Drawing", visible=False, interactive=False, type="filepath",
                        buttons=["download", "fullscreen"], elem_id="drawing",
                    )  # fmt: skip
                    gr.Markdown(
                        "A link shows others what you see. For it, a picture of yours is kept here for up to a week, "
                        "and whoever has the link can see it."
                    )
                    make_link = gr.Button("Link to this view", elem_id="make-link")
                    link = gr.Textbox(label="Link", buttons=["copy"], interactive=False, elem_id="link")

        places = [*box, *point]
        asked = [picture, task, phrase, *places, beams, model]
        answer: dict[str, Any] = dict(
            fn=events.answer, inputs=[*asked, visitor], outputs=[viewer, table, status, answered],
            show_progress="full", show_progress_on=status, concurrency_id=ANSWERS, **_PRIVATE,
        )  # fmt: skip
        others: dict[str, Any] = dict(concurrency_id=_OTHERS, concurrency_limit=2, show_progress="hidden", **_PRIVATE)

        show: dict[str, Any] = dict(
            fn=events.show, inputs=[picture, visitor], outputs=[*places, answered, table, status, viewer], **others
        )
        # Not `change`: a link sets the picture together with its place.
        for event in (picture.upload, picture.clear, offered.load_input_event.then):
            event(**show)
        task.change(
            None, task, phrase, js="(task) => ({__type__: 'update', visible: ['refer', 'segment'].includes(task)})",
            api_visibility="private",
        )  # fmt: skip
        ask.click(**answer)
        phrase.submit(**answer)
        drawn = viewer.submit(events.drawn, visitor, [task, *places], queue=False, show_progress="hidden", **_PRIVATE)
        drawn.success(**answer)
        model.change(events.choose_model, [model, task], [task, note_on_tasks], **others)
        make.click(
            events.make_file, [form, side, answered], [file, text, drawing], **(others | {"show_progress": "full"})
        )
        make_link.click(events.link, answered, link, **others).success(
            None, link, link, js=_TO_ADDRESS, api_visibility="private"
        )
        page.load(events.open_link, None, [*asked, note_on_tasks, linked], **others)
        linked.change(**answer)
        add_endpoints(service, uploads)
    return page


__all__ = ["CSS", "THEME", "TITLE", "build_page"]
