"""Where a model that somebody names lies: an embedded one, a folder, or a repository of the Hub."""

from __future__ import annotations

import re
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from pixelllm_hf import EMBEDDED_CHECKPOINTS, embedded_checkpoint
from pixelllm_hf.modeling.model_folder import read_settings
from pixelllm_hf.processing.tasks import task_spec

from .errors import ModelError, first_lines

EMBEDDED = EMBEDDED_CHECKPOINTS[0]  # what is asked where nobody names a model, if it can do the task
NEEDED_FILES = ("*.json", "*.jinja", "*.model", "*.safetensors")  # neither images nor code


def default_model(task: str) -> str:
    """The embedded model that does a task where nobody names one: the first that has what the task needs.

    Where none has it, the first of all, whose refusal says what is missing. Does not need torch.
    """
    spec = task_spec(task)
    for name in EMBEDDED_CHECKPOINTS:
        try:
            settings = read_settings(embedded_checkpoint(name) / "config.json")
        except (OSError, ValueError):
            return name  # loading it says what is wrong
        if spec.head is None or settings.get(spec.head.config) is not None:
            return name
    return EMBEDDED


@dataclass(frozen=True)
class ModelSource:
    """A model that has been found, and what it was called."""

    name: str
    folder: Path

    @classmethod
    def find(cls, name: str, revision: str | None = None) -> ModelSource:
        """Does not need torch; a repository is downloaded. What is wrong is a `ModelError`."""
        local = check_model_name(name, revision)
        try:
            return cls(name, local if local is not None else _download(name, revision))
        except (OSError, ValueError, RuntimeError) as error:
            raise _not_loaded(name, error) from error


def check_model_name(name: str, revision: str | None = None) -> Path | None:
    """The folder of a model that lies here, None for a repository, without asking the Hub; else a `ModelError`."""
    try:
        return _local(name, revision)
    except (OSError, ValueError) as error:
        raise _not_loaded(name, error) from error


def _not_loaded(name: str, error: Exception) -> ModelError:
    return ModelError(f"the model {name!r} cannot be loaded: {first_lines(error)}")


def _local(name: str, revision: str | None) -> Path | None:
    path = Path(name).expanduser() if re.match(r"~[/\\]", name) else Path(name)
    here = path.exists()
    if revision is not None and (here or name in EMBEDDED_CHECKPOINTS):
        raise ValueError(f"{name!r} lies here and has no revisions. Leave --revision out, or name a model of the Hub.")
    if here:
        return _checked(path)
    if name in EMBEDDED_CHECKPOINTS:
        return embedded_checkpoint(name)
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", name):
        raise ValueError("that is a URL. A model of the Hub is called org/name, and one that lies here by its folder.")
    if not name or re.match(r"\.{0,2}[/\\]|~", name) or name.count("/") > 1:
        raise ValueError("there is no such folder, and a model of the Hub is called org/name.")
    if close := get_close_matches(name, EMBEDDED_CHECKPOINTS, n=1):
        raise ValueError(f"there is no such folder; an embedded model is called {close[0]}.")
    return None


def _download(name: str, revision: str | None) -> Path:
    """A repository, or what the cache has of it; every byte of it is compared."""
    # both take a moment to import, and most models lie here
    from huggingface_hub.errors import HFValidationError

    from pixelllm_hf.downloads import verified_snapshot

    try:
        return verified_snapshot(name, revision=revision, allow_patterns=NEEDED_FILES)
    except HFValidationError as error:
        raise ValueError("there is no such folder, and a model of the Hub is called org/name.") from error


def _checked(folder: Path) -> Path:
    """The folder, if the least that a model needs is in it."""
    if not folder.is_dir():
        raise ValueError(f"{folder} is a file. Name the folder that save_pretrained wrote.")
    if not (folder / "config.json").is_file() and (folder / "adapter_config.json").is_file():
        raise ValueError(
            f"the folder {folder} has an adapter of peft and no model. Load it with peft's PeftModel.from_pretrained, "
            "and save the whole model: merge_and_unload().save_pretrained(…), with its processor."
        )
    if not (folder / "config.json").is_file():
        raise ValueError(f"the folder {folder} has no config.json. Name the folder that save_pretrained wrote.")
    return folder
