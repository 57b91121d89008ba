"""Where a model that somebody names lies: the embedded one, a folder, or a repository of the Hub."""

from __future__ import annotations

from pathlib import Path

from pixelllm_hf import default_checkpoint

EMBEDDED = "tiny"
NEEDED_FILES = ("*.json", "*.jinja", "*.model", "*.safetensors")  # neither pictures nor code


def find_model(name: str, revision: str | None = None) -> Path:
    """The folder to load from; a repository is downloaded, or taken from the cache, and every byte of it compared.

    revision: a branch, tag or commit of a repository. What cannot be had is a `ValueError` or an `OSError`.
    """
    here = Path(name).exists()
    if revision is not None and (here or name == EMBEDDED):
        raise ValueError(f"{name!r} lies here and has no revisions. Leave --revision out, or name a model of the Hub.")
    if here:
        return Path(name)
    if name == EMBEDDED:
        return default_checkpoint()
    # both take a moment to import, and most models lie here
    from huggingface_hub.errors import HFValidationError

    from pixelllm_hf.publishing.download import verified_snapshot

    try:
        return verified_snapshot(name, revision=revision, allow_patterns=NEEDED_FILES)
    except HFValidationError as error:
        raise ValueError("there is no such folder, and a model of the Hub is called org/name.") from error
