"""What the evaluation loop needs to know about a task."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from pixelllm_hf.evaluation.baselines import Baseline, BaselineError
from pixelllm_hf.evaluation.bootstrap import RESAMPLES, Estimate
from pixelllm_hf.evaluation.images import EvaluationImage
from pixelllm_hf.evaluation.scene_folder import DataFolder
from pixelllm_hf.evaluation.sharing import DistributedShard
from pixelllm_hf.processing.grounded_results import GroundedCaption
from pixelllm_hf.processing.tasks import TaskSpec, task_spec


@dataclass(frozen=True)
class Scores:
    """metrics: with intervals. counts: of what was asked, answered, skipped. notes: how it was counted. curves: by name
    the points of each, for those who draw them."""

    metrics: dict[str, Estimate]
    counts: dict[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    curves: dict[str, list[dict[str, float]]] = field(default_factory=dict)


@dataclass(frozen=True)
class EvalSettings:
    """resamples: of the bootstrap, 0 for none. meteor: a key of `meteor.VARIANTS`, None for the best that can run.

    released_meter: of answers that point, also what PixelLM's release would report.
    """

    resamples: int = RESAMPLES
    meteor: str | None = None
    released_meter: bool = False


# A look during training: no intervals, and no table of paraphrases to load.
QUICK = EvalSettings(resamples=0, meteor="meteor-approx")


class Task(ABC):
    """One way of asking about images and of scoring the answers.

    The loop reads the images, asks about a batch of them in one call of the processor and of `generate`, and turns
    every image's answers into a record. Records travel between processes; scores are made once, of all records.
    """

    name: ClassVar[str]
    also_scores: ClassVar[tuple[str, ...]] = ()  # tasks that ask the same, and can be scored from its records
    logged_metrics: ClassVar[dict[str, str]] = {}  # metric -> its name in a training log
    watched: ClassVar[bool] = True  # looked at during training where nobody names tasks

    @property
    def spec(self) -> TaskSpec:
        """What the rest of the package knows of the task."""
        return task_spec(self.name)

    def unsupported_reason(self, model: Any) -> str | None:
        """Why this model cannot do the task, or None."""
        head = self.spec.missing_head(model.config)
        return None if head is None else f"it has no {head}"

    @property
    def searches(self) -> bool:
        """The model searches a text, so that beams and lengths mean something."""
        return self.spec.is_written

    @abstractmethod
    def read(self, data: DataFolder) -> list[Any]:
        """The images (`EvaluationImage`s) with what is asked and what is true."""

    def ask(self, images: Sequence[Any]) -> dict[str, Any]:
        """What the processor is told besides the images and the task's name."""
        return {}

    def inputs(self, processor: Any, images: Sequence[Any]) -> Any:
        """What `generate` and post-processing take for these images."""
        opened = [image.open() for image in images]
        return processor(images=opened, task=self.spec.name, return_tensors="pt", **self.ask(images))

    def answers(self, processor: Any, output: Any, inputs: Mapping[str, Any]) -> list[list[GroundedCaption]]:
        """The model's output in the user's terms, per image."""
        # Average precision ranks all that was found, as it counts boxes of the lowest scores.
        limits = {"every_caption": True} if self.spec.finds_objects else {}
        return self.spec.results(processor, output, inputs, **limits)

    @abstractmethod
    def record(self, image: Any, answers: Sequence[GroundedCaption]) -> Any:
        """All that scoring needs of the answers; small, and can be pickled."""

    def guesses(self, images: Sequence[Any], baseline: Baseline) -> Iterable[list[GroundedCaption]]:
        """What a baseline answers in the model's place, image by image; of a task that has none a `BaselineError`."""
        raise BaselineError(f"there is no baseline for the task {self.name!r} on this data.")

    def teacher_forced(
        self, model: Any, processor: Any, data: DataFolder, share: DistributedShard, *, batch_size: int, progress: bool
    ) -> dict[str, Estimate]:
        """Numbers that are not about `generate` output. All processes call it."""
        return {}

    @abstractmethod
    def score(self, images: Sequence[Any], records: Sequence[Any], settings: EvalSettings) -> Scores:
        """images and records run in parallel."""

    def to_record(self, image: EvaluationImage, record: Any) -> dict[str, Any]:
        """One line of the file of answers, ready for JSON."""
        return {"image_id": image.image_id, **record}
