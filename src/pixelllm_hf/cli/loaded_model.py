"""A model that is ready to answer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pixelllm_hf import default_checkpoint

from .errors import UsageError, first_lines
from .request import Request

if TYPE_CHECKING:
    from pixelllm_hf.processing.grounded_results import GroundedCaption

EMBEDDED = "tiny"
# What a model must have for a task: the part's entry in the config, and what it is called.
NEEDED_HEADS = {"segment": ("mask_head_config", "mask head"), "dense": ("proposal_head_config", "detector")}


@dataclass
class Captioner:
    """A model with its processor: pictures in, results out."""

    model: Any
    processor: Any
    generation: dict[str, Any]

    @classmethod
    def load(cls, name: str, device: str, dtype: str, generation: dict[str, Any]) -> Captioner:
        """From a folder, a hub id, or the embedded model. Mistakes are `UsageError`s."""
        import torch
        from safetensors import SafetensorError
        from transformers.utils import logging

        from pixelllm_hf import PixelLLMForGroundedGeneration, PixelLLMProcessor

        logging.disable_progress_bar()
        logging.set_verbosity_error()  # remarks for programmers, at every call of generate()
        chosen = _device(device)
        # half precision is slow on a CPU and gains nothing there
        wanted = "float32" if dtype == "auto" and chosen.type == "cpu" else dtype
        try:
            source = default_checkpoint() if name == EMBEDDED and not Path(name).exists() else name
            processor = PixelLLMProcessor.from_pretrained(source)
            model, loaded = PixelLLMForGroundedGeneration.from_pretrained(
                source,
                dtype=wanted if wanted == "auto" else getattr(torch, wanted),
                output_loading_info=True,
            )
        except (OSError, ValueError, TypeError, RuntimeError, KeyError, SafetensorError) as error:
            where = _damaged_file(Path(name)) if isinstance(error, SafetensorError) else None
            named = f"{where} is damaged, copy it again: " if where else ""
            raise UsageError(f"the model {name!r} cannot be loaded: {named}{first_lines(error)}") from error
        if loaded["missing_keys"]:
            missing = sorted(loaded["missing_keys"])
            raise UsageError(
                f"the model {name!r} lacks {len(missing)} weights, the first is {missing[0]}. "
                "Is every file of the checkpoint there?"
            )
        return cls(model.to(chosen).eval(), processor, generation)

    def require(self, task: str) -> None:
        """A `UsageError` if the model has no head for the task."""
        missing = self.missing_head(task)
        if missing:
            raise UsageError(
                f"the model {self.model.name_or_path!r} has no {missing}, which task {task!r} needs. "
                "Choose one that has it with --model."
            )

    def missing_head(self, task: str) -> str | None:
        """What the model lacks for the task, in words; None if nothing."""
        entry, head = NEEDED_HEADS.get(task, (None, None))
        return head if entry and getattr(self.model.config, entry, None) is None else None

    def __call__(self, images: list[Any], request: Request) -> list[list[GroundedCaption]]:
        """Per image the results of its prompts, or of the objects that were found."""
        import torch

        inputs = self.processor(images=images, task=request.task, **_prompts(request, len(images)))
        on_device = {name: value.to(self.model.device) for name, value in inputs.items()}
        with torch.inference_mode():
            output = self.model.generate(**on_device, **self.generation)
        if request.task == "dense":
            return self.processor.post_process_dense(
                output, inputs, max_results=request.max_results, min_score=request.min_score
            )
        return self.processor.post_process_grounded_generation(output, inputs)


def _prompts(request: Request, count: int) -> dict[str, Any]:
    """The processor's arguments: the same prompts for each of `count` pictures."""
    boxes = [list(box) for box in request.boxes] + [None] * len(request.points)
    points = [None] * len(request.boxes) + [[list(xy) for xy in group] for group in request.points]
    return {
        "boxes": [boxes] * count if request.boxes else None,
        "points": [points] * count if request.points else None,
        "text": [list(request.expressions)] * count if request.expressions else request.text,
    }


def _device(name: str) -> Any:
    import torch

    if name == "auto":
        return torch.accelerator.current_accelerator() or torch.device("cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
        return device
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"the device {name!r} cannot be used: {first_lines(error)}") from error


def _damaged_file(folder: Path) -> Path | None:
    """The first weight file that cannot be opened; the library's own message does not name it."""
    from safetensors import SafetensorError, safe_open

    for file in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(file, framework="np"):
                pass
        except SafetensorError:
            return file
    return None
