"""What can be measured, one small module each; on what data is decided by the layout of its folder."""

from __future__ import annotations

from pixelllm_hf.evaluation.images import EvaluationDataError
from pixelllm_hf.evaluation.scene_folder import DataFolder
from pixelllm_hf.evaluation.tasks.caption import CaptionTask, PhrasedCaptionTask
from pixelllm_hf.evaluation.tasks.categories import CategoryDenseTask, CategoryRegionTask, CategorySegmentTask
from pixelllm_hf.evaluation.tasks.certainty import CertaintyTask
from pixelllm_hf.evaluation.tasks.dense import DenseTask
from pixelllm_hf.evaluation.tasks.grounded_caption import GroundedCaptionTask
from pixelllm_hf.evaluation.tasks.phrases import PhrasesTask
from pixelllm_hf.evaluation.tasks.pointing import MultiReferTask, MuseTask, PointingTask, ReasonSegTask
from pixelllm_hf.evaluation.tasks.refer import ReferTask
from pixelllm_hf.evaluation.tasks.region import RegionTask
from pixelllm_hf.evaluation.tasks.segment import SegmentTask
from pixelllm_hf.evaluation.tasks.task import Scores, Task
from pixelllm_hf.evaluation.tasks.trace import TraceTask

# On scenes, and on data in the official layouts of these tasks, prepared or not. A new task is an entry here.
TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        TraceTask(),
        CaptionTask(),
        RegionTask(),
        ReferTask(),
        SegmentTask(),
        DenseTask(),
        MuseTask(),
        MultiReferTask(),
        ReasonSegTask(),
    )
}
# On photographs with phrases, or with the names of categories, more and other things are known.
OF_KIND: dict[str, dict[str, Task]] = {
    "phrases": {
        task.name: task
        for task in (
            PhrasedCaptionTask(),
            PhrasesTask(),
            GroundedCaptionTask(),
            CertaintyTask(),
            ReferTask(),
            RegionTask(),
        )
    },
    "categories": {
        task.name: task
        for task in (CaptionTask(), CategoryRegionTask(), CategoryDenseTask(), CategorySegmentTask(), ReferTask())
    },
}
NAMES = list(dict.fromkeys([*TASKS, *(name for tasks in OF_KIND.values() for name in tasks)]))
_FOUND_BY = {
    "phrases": "Sentences/, Annotations/ and images/, as Flickr30k Entities has them",
    "categories": "instances_SPLIT.json and images/, as COCO has them",
}


def task_for(name: str, data: DataFolder) -> Task:
    """What this task measures on this data; an `EvaluationDataError` says what data it wants where it cannot."""
    if not data.folder.exists():
        raise EvaluationDataError(f"{data.folder} is not there. Check the path.")
    tasks = OF_KIND.get(data.kind, TASKS)
    if name in TASKS and isinstance(TASKS[name], PointingTask):  # which look for files of their own
        return TASKS[name]
    if name in tasks:
        return tasks[name]
    wanted = [_FOUND_BY[kind] for kind, others in OF_KIND.items() if name in others]
    raise EvaluationDataError(
        f"{data.folder} holds {data.kind}, of which the tasks are {', '.join(tasks)}. "
        f"{name!r} needs a folder with {' or with '.join(wanted or ['the files of docs/evaluation.md'])}."
    )


__all__ = ["NAMES", "OF_KIND", "TASKS", "Scores", "Task", "task_for"]
