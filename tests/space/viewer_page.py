"""A page with nothing but the linked viewer, for its tests. Needs gradio."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import gradio as gr

from pixelllm_hf.space.view import ShownImage, build_view
from pixelllm_hf.space.viewer import LinkedViewer

from .made_up import growing, made_up_caption, made_up_image


@dataclass
class ViewerPage:
    """A page with nothing but the viewer, and buttons that give it values. `next_word` lets the stream go on."""

    shown: dict[str, Any]  # name of a button -> view
    next_word: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    url: str = ""

    def launch(self) -> Any:
        """-> the launched blocks; sets `url`, where they are."""

        def stream() -> Iterator[dict[str, Any]]:
            image = ShownImage.of(made_up_image())
            yield build_view(image, [], task="caption", writing=True)
            caption = made_up_caption()
            for part in growing(caption):
                assert self.next_word.acquire(timeout=300)
                yield build_view(image, [part], task="caption", writing=True)
            assert self.next_word.acquire(timeout=300)
            yield build_view(image, [caption], task="caption")

        def heard(event: gr.EventData) -> str:
            return json.dumps(event._data)

        with gr.Blocks() as page:
            viewer = LinkedViewer(placeholder="No image yet.", elem_id="viewer")
            submitted = gr.Textbox(elem_id="submitted", label="Submitted")
            viewer.submit(heard, outputs=submitted, show_progress="hidden", api_visibility="private")
            with gr.Row():
                for name, view in self.shown.items():
                    gr.Button(name, elem_id=f"show-{name}").click(
                        lambda view=view: view, outputs=viewer, show_progress="hidden", api_visibility="private"
                    )
                gr.Button("stream", elem_id="show-stream").click(
                    stream, outputs=viewer, show_progress="hidden", api_visibility="private"
                )
        page.queue().launch(server_name="127.0.0.1", prevent_thread_lock=True, quiet=True, share=False, footer_links=[])
        self.url = page.local_url
        return page
