"""What each task says to the language model (spec section 11)."""

from __future__ import annotations

from dataclasses import dataclass

# InstructBLIP's public captioning templates; each ends with a blank, as in training.
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
class TaskPrompt:
    """How a task turns the user's text into the text prompt.

    default: the prompt when the user says nothing; None if the task needs words of the user.
    prefix: comes before the user's words.
    training: the prompts that training draws from; the default alone if empty.
    """

    default: str | None
    prefix: str = ""
    training: tuple[str, ...] = ()

    def prompt(self, text: str | None, task: str) -> str:
        """The text prompt for the user's text, if any."""
        if text is not None:
            return self.prefix + text
        if self.default is None:
            raise ValueError(f"task {task!r} needs text, but none was given. Pass text='…' (a string per prompt).")
        return self.default


# A new task is one entry here.
TASK_PROMPTS: dict[str, TaskPrompt] = {
    "caption": TaskPrompt("A photo of ", training=SHORT_CAPTION_PROMPTS),
    "trace": TaskPrompt("A long image caption: ", training=LONG_CAPTION_PROMPTS),
    "region": TaskPrompt("an object of "),
    "refer": TaskPrompt(None, prefix="where is "),
}


def task_prompt(task: str) -> TaskPrompt:
    """The entry of a task, or an error that lists the tasks there are."""
    if task not in TASK_PROMPTS:
        raise ValueError(f"unknown task {task!r}; the tasks are {', '.join(TASK_PROMPTS)}.")
    return TASK_PROMPTS[task]


__all__ = ["LONG_CAPTION_PROMPTS", "SHORT_CAPTION_PROMPTS", "TASK_PROMPTS", "TaskPrompt", "task_prompt"]
