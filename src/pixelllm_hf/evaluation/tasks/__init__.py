"""The tasks that can be measured, one small module each. A new one is an entry here."""

from __future__ import annotations

from pixelllm_hf.evaluation.tasks.caption import CaptionTask
from pixelllm_hf.evaluation.tasks.dense import DenseTask
from pixelllm_hf.evaluation.tasks.refer import ReferTask
from pixelllm_hf.evaluation.tasks.region import RegionTask
from pixelllm_hf.evaluation.tasks.segment import SegmentTask
from pixelllm_hf.evaluation.tasks.task import Scores, Task
from pixelllm_hf.evaluation.tasks.trace import TraceTask

TASKS: dict[str, Task] = {
    task.name: task for task in (TraceTask(), CaptionTask(), RegionTask(), ReferTask(), SegmentTask(), DenseTask())
}

__all__ = ["TASKS", "Scores", "Task"]
