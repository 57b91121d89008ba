"""The page: which components there are, and which event calls what."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr

from .downloads import FORMATS, SIDES
from .endpoints import ANSWERS, add_endpoints
from .example_images import ExampleImages
from .local_files_only import LocalFilesOnlyBlocks
from .page_events import Opening, PageEvents, Session, lacks, task_choices, words_tasks
from .service import Service
from .viewer import LinkedViewer

TITLE = "PixelLLM: captions whose words know their location"
# Fonts of the visitor's machine: nothing has to be fetched.
THEME = gr.themes.Default(
    primary_hue="blue",
    font=["system-ui", "sans-serif"],
    font_mono=["ui-monospace", "monospace"],
)
# The answer stands beside what is chosen; on narrow screens between the image and the options.
CSS = """
.gradio-container { max-width: 1200px !important; }
#layout {
  align-items: start; display: grid; gap: 16px;
  grid-template: "choose result" auto "options result" 1fr / minmax(0, 2fr) minmax(0, 3fr);
}
#learnt-from { font-size: .85rem; opacity: .8; }
#choose { grid-area: choose; } #result { grid-area: result; } #options { grid-area: options; }
#examples { flex-wrap: wrap; gap: 8px; }
.example { flex: 0 0 auto; flex-direction: column; font-size: 13px; gap: 4px; min-width: 0 !important; padding: 6px; }
.example img { border-radius: 4px; height: 56px; margin: 0; object-fit: cover; width: 84px; }
#ask { min-height: 44px; }
.place-fields { flex-wrap: wrap; }
.place-fields > * { min-width: 5.5em !important; }
@media (max-width: 760px) {
  #layout { grid-template: "choose" "result" "options" / minmax(0, 1fr); }
  #title h1 { font-size: 1.3rem; margin: 0; } #title p { font-size: .95rem; }
  #image { height: 132px !important; }
}
"""
# Outside of what gradio applies CSS to. It hides the link before this dot on narrow screens, but not the dot.
HEAD = "<style>@media (max-width: 640px) { footer .divider { display: none; } }</style>"
_OTHERS = "others"  # the queue of what asks no model
_TO_ADDRESS = "(link) => link.startsWith('?') ? window.location.origin + window.location.pathname + link : link"
# What visitors do is heard, but is no endpoint; values come unchecked and are checked by the listeners.
_PRIVATE: dict[str, Any] = {"api_visibility": "private", "preprocess": False}


def build_page(service: Service, examples: ExampleImages, uploads: Path) -> gr.Blocks:
    """The page with its API, ready to be launched; it opens with an example, which is answered now.

    uploads: the folder in which gradio keeps uploaded files.
    """
    events = PageEvents(service, examples, uploads)
    opening = events.opening()
    lacking = service.lacking(None)
    with LocalFilesOnlyBlocks(title=TITLE, analytics_enabled=False) as page:
        gr.Markdown(
            f"# {TITLE}\nPoint at a word to see its place, point at the image to see the word.", elem_id="title"
        )
        taught = gr.Markdown(service.learnt_from(None), elem_id="learnt-from")
        answered, linked, visitor = gr.State(opening.answered, time_to_live=3600), gr.State(None), gr.State(Session())
        with gr.Row(elem_id="layout"):
            choose = _choose(opening, examples)
            result = _result(opening)
            options = _options(service, lacking)
        _connect(
            *(page, events, choose, result, options),
            taught=taught,
            answered=answered,
            linked=linked,
            visitor=visitor,
        )
        add_endpoints(service, uploads)
    return page


def _choose(opening: Opening, examples: ExampleImages) -> SimpleNamespace:
    """The image that is asked about, and examples: `image`, and the buttons `offered` by name."""
    parts = SimpleNamespace()
    with gr.Column(elem_id="choose", min_width=0):
        parts.image = gr.Image(
            opening.file, label="Image", type="filepath", image_mode=None, sources=["upload", "clipboard"],
            height=220, buttons=[], elem_id="image",
        )  # fmt: skip
        with gr.Row(elem_id="examples"):
            parts.offered = {
                name: gr.Button(name, icon=file, size="sm", elem_classes="example")
                for name, file in examples.files.items()
            }
    return parts


def _result(opening: Opening) -> SimpleNamespace:
    """The viewer with its note and table, and what is taken away: the file of a format, the drawing, a link."""
    parts = SimpleNamespace()
    with gr.Column(elem_id="result", min_width=0):
        parts.viewer = LinkedViewer(
            opening.view, placeholder="Choose an image. Then draw a box on it, click a point, or ask.",
            elem_id="viewer",
        )  # fmt: skip
        parts.status = gr.Markdown(opening.note, elem_id="status", min_height=48)
        with gr.Accordion("Results as a table", open=False):
            parts.table = gr.Dataframe(
                opening.rows, headers=["#", "text", "score", "box"], datatype=["number", "str", "str", "str"],
                interactive=False, wrap=True, elem_id="table",
            )  # fmt: skip
        with gr.Accordion("Take it with you", open=False):
            with gr.Row():
                parts.form = gr.Radio(list(FORMATS), value=FORMATS[0], label="Format", elem_id="format")
                parts.side = gr.Slider(
                    *SIDES, value=1600, step=32, label="Drawing's longer side, pixels", elem_id="side"
                )
            parts.make = gr.Button("Make the file", elem_id="make-file")
            parts.file = gr.File(label="File", interactive=False, elem_id="file")
            parts.text = gr.Code(
                label="To copy", language="json", visible=False, interactive=False, max_lines=16, elem_id="text"
            )
            parts.drawing = gr.Image(
                label="Drawing", visible=False, interactive=False, type="filepath",
                buttons=["download", "fullscreen"], elem_id="drawing",
            )  # fmt: skip
            gr.Markdown("A link asks the same about the same example. An image of yours is not kept for links.")
            parts.make_link = gr.Button("Link to this view", elem_id="make-link")
            parts.link = gr.Textbox(label="Link", buttons=["copy"], interactive=False, elem_id="link")
    return parts


def _options(service: Service, lacking: Any) -> SimpleNamespace:
    """What is asked: task, words, `box` and `point` in number fields, beams, model."""
    parts = SimpleNamespace()
    with gr.Column(elem_id="options", min_width=0):
        choices = task_choices(lacking)
        parts.task = gr.Radio(choices, value=choices[0][1], label="Task", elem_id="task")
        parts.note_on_tasks = gr.Markdown(lacks(lacking), elem_id="lacks")
        parts.phrase = gr.Textbox(
            label="What to find, or a question", placeholder="the red car",
            max_length=service.limits.letters, elem_id="phrase", visible=choices[0][1] in words_tasks(),
        )  # fmt: skip
        parts.ask = gr.Button("Ask", variant="primary", elem_id="ask")
        with gr.Accordion("Place, beams, model", open=False):
            gr.Markdown("A place in pixels of the image; drawing on the image fills this in.")
            with gr.Row(elem_classes="place-fields"):
                parts.box = [
                    gr.Number(label=side, minimum=0, elem_id=f"box-{side}")
                    for side in ("left", "top", "right", "bottom")
                ]
            with gr.Row(elem_classes="place-fields"):
                parts.point = [gr.Number(label=f"point {axis}", minimum=0, elem_id=f"point-{axis}") for axis in "xy"]
            parts.beams = gr.Slider(
                1, service.limits.beams, value=service.beams(None), step=1, label="Beams (1 streams the words)",
                elem_id="beams",
            )  # fmt: skip
            parts.model = gr.Dropdown(
                service.models, value=service.models[0], label="Model", elem_id="model",
                interactive=len(service.models) > 1,
            )  # fmt: skip
    return parts


def _connect(
    page: gr.Blocks,
    events: PageEvents,
    choose: SimpleNamespace,
    result: SimpleNamespace,
    options: SimpleNamespace,
    *,
    taught: gr.Markdown,
    answered: gr.State,
    linked: gr.State,
    visitor: gr.State,
) -> None:
    """What happens where something is chosen, drawn, asked or opened."""
    image, task, phrase, status, viewer = choose.image, options.task, options.phrase, result.status, result.viewer
    places = [*options.box, *options.point]
    asked = [image, task, phrase, *places, options.beams, options.model]
    shown = [viewer, result.table, status, answered]
    answer: dict[str, Any] = dict(
        fn=events.answer, inputs=[*asked, visitor], outputs=shown,
        show_progress="full", show_progress_on=status, concurrency_id=ANSWERS, **_PRIVATE,
    )  # fmt: skip
    # What breaks off the answer before it must not be dropped because that one is still on its way.
    at_once: dict[str, Any] = answer | {"trigger_mode": "multiple"}
    others: dict[str, Any] = dict(concurrency_id=_OTHERS, concurrency_limit=2, show_progress="hidden", **_PRIVATE)

    show: dict[str, Any] = dict(
        fn=events.show,
        inputs=[image, visitor],
        outputs=[image, *places, answered, result.table, status, viewer],
        **others,
    )
    # Not `change`: a link sets the image together with its location.
    image.clear(**(show | {"fn": partial(events.show, None), "inputs": visitor}))  # it still sends the old one
    chosen: list[Any] = [image.upload]
    for name, button in choose.offered.items():
        chosen.append(button.click(partial(events.example, name), None, image, **others).success)
    for event in chosen:
        event(**show).success(**(at_once | {"fn": events.answer_new}))
    task.change(
        None, task, phrase, js=f"(task) => ({{__type__: 'update', visible: {words_tasks()}.includes(task)}})",
        api_visibility="private",
    )  # fmt: skip
    options.ask.click(**answer)
    phrase.submit(**answer)
    drawn = viewer.submit(events.drawn, visitor, [task, *places], queue=False, show_progress="hidden", **_PRIVATE)
    drawn.success(**at_once)
    options.model.input(
        events.choose_model, [options.model, task], [task, options.note_on_tasks, options.beams, taught], **others
    )
    result.make.click(
        events.make_file,
        [result.form, result.side, answered],
        [result.file, result.text, result.drawing],
        **(others | {"show_progress": "full"}),
    )
    result.make_link.click(events.link, answered, result.link, **others).success(
        None, result.link, result.link, js=_TO_ADDRESS, api_visibility="private"
    )
    page.load(events.open_link, None, [*asked, options.note_on_tasks, taught, linked, *shown], **others)
    linked.change(**answer)


__all__ = ["CSS", "HEAD", "THEME", "TITLE", "build_page"]
