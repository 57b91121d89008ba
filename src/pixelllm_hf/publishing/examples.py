"""Images for a card: the model's own answers, drawn."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .contents import EXAMPLES
from .errors import PublishError
from .model_card import Example

SERIES = 700_000_000  # the composed scenes that demonstrations show; not trained and not measured on
SCENES = (12, 13)
QUESTION = "which objects are in the picture?"


def draw_examples(folder: Path, images: Sequence[str | Path] | None, into: Path) -> list[tuple[Example, Path]]:
    """What the model says of the images, as entries for the card and files in `into`. One that has to be asked is
    asked for everything.

    images: files; None takes composed scenes, which are free of anybody's rights.
    """
    import torch

    from pixelllm_hf import ImageError
    from pixelllm_hf.decoding import decoding_options
    from pixelllm_hf.families import family_of_folder
    from pixelllm_hf.processing.tasks import task_spec

    sources: list[tuple[str, Any]] = _scenes() if images is None else [(Path(image).stem, image) for image in images]
    if not sources:
        return []
    names = [name for name, _ in sources]
    if len(set(names)) < len(names):
        raise PublishError(f"example images need different names, but they are {', '.join(names)}.")
    family = family_of_folder(folder)
    processor = family.processor_class.from_pretrained(folder)
    model = family.model_class.from_pretrained(folder).eval()
    spec = task_spec(processor.default_task)
    into.mkdir(parents=True, exist_ok=True)
    drawn = []
    for name, source in sources:
        try:
            inputs = processor(images=source, text=QUESTION if spec.needs_words else None, return_tensors="pt")
        except (OSError, ImageError) as error:
            raise PublishError(f"the example image {source} cannot be read: {error}") from error
        with torch.inference_mode():
            output = model.generate(**inputs, **decoding_options(model.generation_config))
        caption = spec.results(processor, output, inputs)[0][0]
        file = into / f"{name}.png"
        caption.draw(source).save(file, optimize=True)
        drawn.append((Example(f"{EXAMPLES}/{file.name}", caption.text), file))
    return drawn


def _scenes() -> list[tuple[str, Any]]:
    from pixelllm_hf.data.scenes import ObjectLibrary, compose_scene

    library = ObjectLibrary.builtin()
    return [(f"scene_{index}", compose_scene(SERIES, index, library).image) for index in SCENES]
