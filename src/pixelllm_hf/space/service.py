"""Models that answer requests, one at a time each."""

from __future__ import annotations

import threading
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pixelllm_hf import EMBEDDED_CHECKPOINTS
from pixelllm_hf.inference import Captioner, Request
from pixelllm_hf.processing.tasks import TASK_SPECS, task_spec

from .learnt_from import learnt_from
from .limits import Limits
from .refusals import RefusedError

if TYPE_CHECKING:
    from PIL import Image

    from pixelllm_hf.processing.grounded_results import GroundedCaption


class Service:
    """Answers requests about images with the model that is chosen.

    captioners: by the names that visitors see; the first one answers where none is named.
    """

    def __init__(self, captioners: Mapping[str, Captioner], limits: Limits):
        self.limits = limits
        self._captioners = dict(captioners)
        self._locks = {name: threading.Lock() for name in captioners}

    @classmethod
    def load(cls, models: Sequence[str], *, limits: Limits, device: str = "auto", dtype: str = "auto") -> Service:
        """models: folders, hub ids or the names of embedded models. Errors: `ModelError`."""
        return cls({name: Captioner.load(model, device, dtype, {}) for name, model in shown_names(models)}, limits)

    @property
    def models(self) -> list[str]:
        """The names to choose from."""
        return list(self._captioners)

    def lacking(self, model: str | None) -> dict[str, str]:
        """The tasks that the model cannot do, with what it lacks for them."""
        captioner = self._captioners[self.chosen(model)]
        missing = {task: captioner.missing_head(task) for task in TASK_SPECS}
        return {task: head for task, head in missing.items() if head is not None}

    def beams(self, model: str | None) -> int:
        """How many beams the model searches with where a visitor says nothing, within the limits."""
        return min(self._captioners[self.chosen(model)].beams, self.limits.beams)

    def learnt_from(self, model: str | None) -> str:
        """What the model was taught with, in the words of its card, as Markdown."""
        name = self.chosen(model)
        return learnt_from(name, self._captioners[name].folder)

    def chosen(self, model: object) -> str:
        """The name of a model that is here; the first one for None or an empty name."""
        if model is None or model == "":
            return self.models[0]
        if not isinstance(model, str) or model not in self._captioners:
            raise RefusedError(f"there is no such model here. The models are {', '.join(self.models)}.")
        return model

    def answer(
        self, image: Image.Image, request: Request, *, model: str | None = None, beams: int | None = None
    ) -> list[GroundedCaption]:
        """The results for an image, as `checked_request` and `read_upload` let it in.

        beams: None is the model's own.
        """
        name = self._ready(model, request)
        with self._locks[name]:
            answer = self._captioners[name]
            return answer([image], request, seconds=self.limits.seconds, **self._writing(name, beams))[0]

    def stream(
        self, image: Image.Image, request: Request, *, model: str | None = None, beams: int | None = None
    ) -> Generator[list[GroundedCaption], None, None]:
        """The same while it is written, longer each time; at once what cannot be streamed."""
        name = self._ready(model, request)
        beams = beams or self.beams(name)
        one = len(request.boxes) + len(request.points) <= 1
        if not task_spec(request.task).streams or beams > 1 or not one:
            yield self.answer(image, request, model=name, beams=beams)
            return
        with self._locks[name]:
            yield from self._captioners[name].stream(
                image, request, seconds=self.limits.seconds, **self._writing(name, beams)
            )

    def _ready(self, model: str | None, request: Request) -> str:
        name = self.chosen(model)
        if (head := self.lacking(name).get(request.task)) is not None:
            able = [other for other in self.models if request.task not in self.lacking(other)]
            instead = f"Choose {' or '.join(able)}." if able else "Choose another task."
            raise RefusedError(f"the model {name} has no {head}, which the task “{request.task}” needs. {instead}")
        return name

    def _writing(self, name: str, beams: int | None) -> dict[str, int]:
        longest = min(self._captioners[name].longest, self.limits.new_tokens)
        return {"max_new_tokens": longest, "num_beams": beams or self.beams(name)}


def shown_names(models: Sequence[str]) -> list[tuple[str, str]]:
    """(name, model) pairs: a hub id as it is, of a folder only its own name, and none twice.

    >>> shown_names(["tiny", "org/pixelllm", "/data/runs/best", "/data/old/best"])
    [('tiny', 'tiny'), ('org/pixelllm', 'org/pixelllm'), ('best', '/data/runs/best'), ('best (2)', '/data/old/best')]
    """
    pairs: dict[str, str] = {}
    for model in dict.fromkeys(models):
        plain = (
            model
            if model in EMBEDDED_CHECKPOINTS or (model.count("/") == 1 and not Path(model).exists())
            else Path(model).name
        )
        name, number = plain, 2
        while name in pairs:
            name, number = f"{plain} ({number})", number + 1
        pairs[name] = model
    return list(pairs.items())


__all__ = ["Service", "shown_names"]
