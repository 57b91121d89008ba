"""The tasks, and all that the parts of the package know of each.

The processor, the pipeline, the command line, the demo page, training, evaluation and its reports read these entries;
none of them has a list of tasks of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .prompt_locations import PromptError

# What training draws the prompts of captions from: InstructBLIP's public templates, each with a blank at its end.
SHORT_CAPTION_PROMPTS = (
    "A short image caption: ",
    "A short image description: ",
    "A photo of ",
    "An image that shows ",
    "Write a short description for the image. ",
    "Write a description for the photo. ",
    "Provide a description of what is presented in the photo. ",
    "Briefly describe the content of the image. ",
    "Can you briefly explain what you see in the image? ",
    "Could you use a few words to describe what you perceive in the photo? ",
    "Please provide a short depiction of the picture. ",
    "Using language, provide a short account of the image. ",
    "Use a few words to illustrate what is happening in the picture. ",
)

# The same for narratives: long for short, in detail for briefly, a few sentences for a few words.
LONG_CAPTION_PROMPTS = (
    "A long image caption: ",
    "A long image description: ",
    "Write a long description for the image. ",
    "Write a long description for the photo. ",
    "Provide a long description of what is presented in the photo. ",
    "Describe the content of the image in detail. ",
    "Can you explain in detail what you see in the image? ",
    "Could you use a few sentences to describe what you perceive in the photo? ",
    "Please provide a long depiction of the picture. ",
    "Using language, provide a long account of the image. ",
    "Use a few sentences to illustrate what is happening in the picture. ",
)


@dataclass(frozen=True)
class Head:
    """A part that not every model has: its entry in the model's config, and what users call it."""

    config: str
    word: str

    def is_in(self, config: Any) -> bool:
        """Whether a model with this config has it."""
        return getattr(config, self.config, None) is not None


POINT_HEAD = Head("point_head_config", "point head")
MASK_HEAD = Head("mask_head_config", "mask head")
DETECTOR = Head("proposal_head_config", "detector")
CODEBOOK = Head("codebook_config", "segmentation codebook")


@dataclass(frozen=True)
class TaskSpec:
    """One task.

    name: what users ask for. title: heading of its table in reports. label: on the demo page. summary: one line of help
        for its command.
    default: the text prompt when the user says nothing; None if the task needs words of the user.
    prefix: comes before the user's words.
    training: the prompts that training draws from; the default alone if empty.
    text_is_answer: the user's words are given to the model as its answer, and only their locations are asked for.
    wants_masks: the answer has a mask for each prompt.
    finds_objects: the model finds the objects itself, so boxes and points are not taken; one text prompt an image.
    writes_targets: phrases of the answer have masks of their own, which are known when all is written.
    head: without which a model cannot do the task.
    region_task: the task that answers where boxes or points are given: this one if it needs them, None if none is.
    training_scale, training_flip: the released recipe's random range of the longer side, in canvases, and probability
        of a mirrored image.
    rows_of: another task whose training rows hold all that this one needs.
    post_process: the processor's method that makes results of what `generate` returns.
    """

    name: str
    title: str
    label: str
    summary: str
    default: str | None
    prefix: str = ""
    training: tuple[str, ...] = ()
    text_is_answer: bool = False
    wants_masks: bool = False
    finds_objects: bool = False
    writes_targets: bool = False
    head: Head | None = POINT_HEAD
    region_task: str | None = None
    training_scale: tuple[float, float] = (1.0, 1.0)
    training_flip: float = 0.0
    rows_of: str | None = None
    post_process: str = "post_process_grounded_generation"

    def prompt(self, text: str | None) -> str:
        """The text prompt for the user's text, if any."""
        if text is not None:
            return self.prefix + self.without_prefix(text)
        if self.default is None:
            wanted = "an expression" if self.text_is_answer else "a question"
            example = "the red car" if self.text_is_answer else "what can be eaten?"
            raise PromptError(
                f"task {self.name!r} needs {wanted} for every prompt, but none was given. Pass text={example!r} or a "
                "list with one for each."
            )
        return self.default

    def without_prefix(self, text: str) -> str:
        """The user's words as they are said. Blanks around an expression mean nothing."""
        return text.strip() if self.text_is_answer else text

    @property
    def needs_words(self) -> bool:
        """Nothing can be asked without words of the user: an expression or a question."""
        return self.default is None

    @property
    def needs_locations(self) -> bool:
        """Nothing can be asked without boxes or points."""
        return self.region_task == self.name

    @property
    def is_written(self) -> bool:
        """The model searches a text, so that beams and lengths mean something."""
        return not self.text_is_answer

    @property
    def streams(self) -> bool:
        """The answer can be seen while it is written."""
        return self.is_written and not self.finds_objects and not self.writes_targets

    @property
    def describes_images(self) -> bool:
        """The answer is a caption of the whole image."""
        return self.streams and not self.needs_locations

    @property
    def names_objects(self) -> bool:
        """What is written names objects whose boxes training rows hold."""
        return self.needs_locations or self.finds_objects or self.writes_targets

    @property
    def about_objects(self) -> bool:
        """Answers are objects, all of one image to be shown together; else texts whose words have locations."""
        return self.text_is_answer or self.finds_objects

    def missing_head(self, config: Any) -> str | None:
        """What a model with this config lacks for the task, in words; None if nothing."""
        return self.head.word if self.head is not None and not self.head.is_in(config) else None

    def results(self, processor: Any, outputs: Any, inputs: Mapping[str, Any], **limits: Any) -> Any:
        """What the model has returned, in the user's terms: per image a list of `GroundedCaption`."""
        return getattr(processor, self.post_process)(outputs, inputs, **limits)


# A new task is one entry here.
TASK_SPECS: dict[str, TaskSpec] = {
    spec.name: spec
    for spec in (
        TaskSpec(
            "caption",
            title="Short captions",
            label="Describe",
            summary="describe images with a location for every word",
            default="A photo of ",
            training=SHORT_CAPTION_PROMPTS,
            region_task="region",
            training_scale=(0.75, 1.25),
        ),
        TaskSpec(
            "trace",
            title="Long captions with locations (trace)",
            label="Tell in detail",
            summary="describe images at length with a location for every word",
            default="A long image caption: ",
            training=LONG_CAPTION_PROMPTS,
        ),
        TaskSpec(
            "region",
            title="What is in this box? (region)",
            label="Describe a place",
            summary="describe locations in images, given as boxes or points",
            default="an object of ",
            region_task="region",
            training_scale=(0.1, 2.0),
            training_flip=0.5,
            rows_of="dense",
            post_process="post_process_region",
        ),
        TaskSpec(
            "refer",
            title="Referring expression to box (refer)",
            label="Find",
            summary="find what an expression means: a box",
            default=None,
            prefix="where is ",
            text_is_answer=True,
            training_scale=(0.75, 1.25),
            rows_of="segment",
            post_process="post_process_refer",
        ),
        TaskSpec(
            "segment",
            title="Referring expression to mask (segment)",
            label="Find and cut out",
            summary="find what an expression means: a box and a mask",
            default=None,
            prefix="where is ",
            text_is_answer=True,
            wants_masks=True,
            head=MASK_HEAD,
            training_scale=(0.75, 1.25),
            post_process="post_process_segment",
        ),
        TaskSpec(
            "dense",
            title="Everything with box and caption (dense)",
            label="Describe everything",
            summary="find the objects of images and describe each",
            default="an object of ",
            finds_objects=True,
            head=DETECTOR,
            training_scale=(0.1, 2.0),
            training_flip=0.5,
            rows_of="region",
            post_process="post_process_dense",
        ),
        TaskSpec(
            "reason",
            title="Questions answered with masks (reason)",
            label="Ask",
            summary="answer questions about images, with a mask for each thing that the answer names",
            default=None,
            writes_targets=True,
            head=CODEBOOK,
            post_process="post_process_reason",
        ),
    )
}


def task_spec(task: str) -> TaskSpec:
    """The entry of a task, or an error that lists the tasks there are."""
    if task not in TASK_SPECS:
        raise PromptError(f"unknown task {task!r}; the tasks are {', '.join(TASK_SPECS)}.")
    return TASK_SPECS[task]


__all__ = ["CODEBOOK", "DETECTOR", "MASK_HEAD", "POINT_HEAD", "TASK_SPECS", "Head", "TaskSpec", "task_spec"]
