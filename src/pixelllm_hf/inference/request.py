"""What is asked about every picture."""

from __future__ import annotations

from dataclasses import dataclass

from pixelllm_hf.processing.tasks import task_spec

Box = tuple[float, float, float, float]
Points = tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Request:
    """A task with its prompts: the whole picture, or every box and every group of points, or every expression.

    text: said to the model instead of the task's own words. max_results, min_score: of the objects that are found.
    """

    task: str
    boxes: tuple[Box, ...] = ()
    points: tuple[Points, ...] = ()
    expressions: tuple[str, ...] = ()
    text: str | None = None
    max_results: int | None = None
    min_score: float | None = None

    @property
    def about_objects(self) -> bool:
        """Answers are objects, all of one picture to be shown together; else texts whose words have places."""
        return task_spec(self.task).about_objects
