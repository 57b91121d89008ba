"""What is asked about every image."""

from __future__ import annotations

from dataclasses import dataclass

from pixelllm_hf.processing.canvas_transform import BoxXYXY
from pixelllm_hf.processing.tasks import task_spec

Points = tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Request:
    """A task with its prompts: the whole image, or every box and every group of points, or every expression.

    text: said to the model instead of the task's own words. max_results, min_score: of the objects that are found.
    """

    task: str
    boxes: tuple[BoxXYXY, ...] = ()
    points: tuple[Points, ...] = ()
    expressions: tuple[str, ...] = ()
    text: str | None = None
    max_results: int | None = None
    min_score: float | None = None

    @property
    def about_objects(self) -> bool:
        """Answers are objects, all of one image to be shown together; else texts whose words have locations."""
        return task_spec(self.task).about_objects
