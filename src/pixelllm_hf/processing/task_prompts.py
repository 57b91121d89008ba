"""What each task says to the language model (spec section 11)."""

from __future__ import annotations

from dataclasses import dataclass

from .prompt_places import PromptError

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
    """How a task turns the user's text into the text prompt, and what it wants of the model besides.

    default: the prompt when the user says nothing; None if the task needs words of the user.
    prefix: comes before the user's words.
    training: the prompts that training draws from; the default alone if empty.
    text_is_answer: the user's words are given to the model as its answer, and only their places are asked for.
    wants_masks: the answer has a mask for each prompt.
    finds_objects: the model finds the places itself, so boxes and points are not taken; one text prompt an image.
    """

    default: str | None
    prefix: str = ""
    training: tuple[str, ...] = ()
    text_is_answer: bool = False
    wants_masks: bool = False
    finds_objects: bool = False

    def prompt(self, text: str | None, task: str) -> str:
        """The text prompt for the user's text, if any."""
        if text is not None:
            return self.prefix + self.without_prefix(text)
        if self.default is None:
            raise PromptError(
                f"task {task!r} needs an expression for every prompt, but none was given. Pass text='the red car' or "
                "a list with one for each."
            )
        return self.default

    def without_prefix(self, text: str) -> str:
        """The user's words as they are said. Blanks around an expression mean nothing."""
        return text.strip() if self.text_is_answer else text


# A new task is one entry here.
TASK_PROMPTS: dict[str, TaskPrompt] = {
    "caption": TaskPrompt("A photo of ", training=SHORT_CAPTION_PROMPTS),
    "trace": TaskPrompt("A long image caption: ", training=LONG_CAPTION_PROMPTS),
    "region": TaskPrompt("an object of "),
    "refer": TaskPrompt(None, prefix="where is ", text_is_answer=True),
    "segment": TaskPrompt(None, prefix="where is ", text_is_answer=True, wants_masks=True),
    "dense": TaskPrompt("an object of ", finds_objects=True),
}


def task_prompt(task: str) -> TaskPrompt:
    """The entry of a task, or an error that lists the tasks there are."""
    if task not in TASK_PROMPTS:
        raise PromptError(f"unknown task {task!r}; the tasks are {', '.join(TASK_PROMPTS)}.")
    return TASK_PROMPTS[task]


__all__ = ["LONG_CAPTION_PROMPTS", "SHORT_CAPTION_PROMPTS", "TASK_PROMPTS", "TaskPrompt", "task_prompt"]
