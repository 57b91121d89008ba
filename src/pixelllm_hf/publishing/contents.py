"""Which files of a folder belong on the Hub. What is not known to belong there stays at home, and is named."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pixelllm_hf
from pixelllm_hf.safetensors_files import WeightsError, read_layout

from .errors import PublishError

MODEL_TYPE = "pixelllm"
REQUIRED = ("config.json", "processor_config.json", "tokenizer.json")
CHECKPOINT_FILES = (
    *REQUIRED,
    "added_tokens.json",
    "chat_template.jinja",
    "generation_config.json",
    "preprocessor_config.json",
    "special_tokens_map.json",
    "spiece.model",
    "tokenizer.model",
    "tokenizer_config.json",
    "README.md",
    "LICENSE*",
    "NOTICE*",
    "evaluation_*.json",
)
WEIGHTS = ("model.safetensors", "model-?????-of-?????.safetensors")
WEIGHTS_INDEX = "model.safetensors.index.json"
IMAGES = ("*.jpeg", "*.jpg", "*.png", "*.webp")
EXAMPLES = "examples"
DATA_FILES = ("*.csv", "*.json", "*.jsonl", "*.parquet", "*.tar", "*.tsv", *IMAGES)
DATASET_FILES = (*DATA_FILES, "*.md", "*.txt", "LICENSE*", "NOTICE*")
# Folders and files whose names start with a dot (.git, .cache, .env), and what other tools leave behind.
NEVER = (".*", "*/.*", "__pycache__/*", "*/__pycache__/*", "*.incomplete", "*.lock", "*.tmp", "*~")
TEXT_SUFFIXES = {"", ".csv", ".jinja", ".json", ".jsonl", ".md", ".py", ".tsv", ".txt", ".yaml", ".yml"}
SCANNED_BYTES = 4_000_000  # of a text file; secrets sit in small files, captions in large ones
SECRETS = {
    "a Hugging Face token": re.compile(r"\bhf_[A-Za-z0-9]{30,}\b"),
    "a GitHub token": re.compile(r"\bgh[pousr]_[A-Za-z0-9]{36,}\b"),
    "an AWS key": re.compile(r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"),
    "a Google key": re.compile(r"\bAIza[0-9A-Za-z_-]{35}\b"),
    "a Slack token": re.compile(r"\bxox[abprs]-[0-9A-Za-z-]{20,}"),
    "a private key": re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----"),
}
NAMING = ("config.json", "processor_config.json")  # the files that say which code is theirs
_RELATIVE_IMPORT = re.compile(r"^\s*from\s+\.(\w+)\s+import\s", re.M)


@dataclass(frozen=True)
class Contents:
    """`files`: path in the repository -> file here. `left_out`: what else the folder holds, folders with a slash."""

    files: dict[str, Path]
    left_out: tuple[str, ...]

    @property
    def weights(self) -> list[Path]:
        return [path for name, path in sorted(self.files.items()) if is_weights(name)]


def is_weights(name: str) -> bool:
    return matches(name, WEIGHTS)


def matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def checkpoint_contents(folder: str | Path) -> Contents:
    """What `publish_model` takes of a checkpoint folder: weights, configuration, processor, code that it names, card.

    An incomplete or damaged checkpoint is a `PublishError`.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise PublishError(f"{folder} is not a folder. Give the folder of a model, as save_pretrained writes it.")
    files: dict[str, Path] = {}
    left_out = []
    code = code_files(folder)
    for path in sorted(folder.iterdir()):
        name = path.name
        if path.is_dir():
            images = {p.name: p for p in sorted(path.iterdir()) if p.is_file() and is_example(p.name)}
            if name == EXAMPLES:
                files |= {f"{EXAMPLES}/{inside}": p for inside, p in images.items()}
            else:
                left_out.append(f"{name}/")
        elif path.is_file() and (matches(name, CHECKPOINT_FILES) or is_weights(name) or name in code):
            files[name] = path
        elif name != WEIGHTS_INDEX:
            left_out.append(name)
    missing = [name for name in REQUIRED if name not in files]
    if missing:
        raise PublishError(
            f"{folder} lacks {', '.join(missing)}, so nobody could load the model. Save the model and its processor "
            "there with save_pretrained."
        )
    model_type = read_json(files["config.json"]).get("model_type")
    if model_type != MODEL_TYPE:
        raise PublishError(f"{folder} holds a model of type {model_type!r}; this command publishes {MODEL_TYPE!r}.")
    return Contents(files | _whole_weights(folder, files), tuple(left_out))


def is_example(name: str) -> bool:
    return matches(name.lower(), IMAGES) or name == "ATTRIBUTION.md"


def _whole_weights(folder: Path, files: Mapping[str, Path]) -> dict[str, Path]:
    """The index if the weights are in shards; every weight file is looked into."""
    present = {name for name in files if is_weights(name)}
    index = folder / WEIGHTS_INDEX
    indexed: dict[str, Path] = {}
    if "model.safetensors" in present:  # an index beside it is a left-over: loading looks for this file first
        if len(present) > 1:
            raise PublishError(
                f"{folder} holds both model.safetensors and shards ({', '.join(sorted(present)[:2])}, …). "
                "Remove those that are not the model's."
            )
    elif not index.is_file():
        raise PublishError(f"{folder} has no weights: neither model.safetensors nor {WEIGHTS_INDEX}.")
    else:
        odd = sorted(set(read_json(index).get("weight_map", {}).values()) ^ present)
        if odd:
            raise PublishError(f"{index} and the weight files of the folder differ: {', '.join(odd[:3])}. Save again.")
        indexed = {WEIGHTS_INDEX: index}
    for name in sorted(present):
        try:
            read_layout(files[name])
        except WeightsError as error:
            raise PublishError(str(error)) from error
    return indexed


def code_files(folder: Path) -> set[str]:
    """Python files that the folder's own configuration names, and those that they import relatively."""
    found: set[str] = set()
    for name in ("config.json", "processor_config.json", "preprocessor_config.json", "tokenizer_config.json"):
        if (folder / name).is_file():
            found |= {f"{module}.py" for module in _named_modules(read_json(folder / name))}
    waiting = list(found)
    while waiting:
        path = folder / waiting.pop()
        if path.is_file():
            imported = {f"{module}.py" for module in _RELATIVE_IMPORT.findall(path.read_text(encoding="utf-8"))}
            waiting += imported - found
            found |= imported
    return found


def _named_modules(config: Mapping[str, Any]) -> Iterable[str]:
    """Modules of `auto_map` and `custom_pipelines`, at any depth (an image processor is nested in its processor)."""
    for key, value in config.items():
        if key == "auto_map" and isinstance(value, dict):
            names = [n for entry in value.values() for n in (entry if isinstance(entry, list) else [entry]) if n]
            yield from (name.split("--")[-1].split(".")[0] for name in names)
        elif key == "custom_pipelines" and isinstance(value, dict):
            yield from (entry["impl"].split(".")[0] for entry in value.values() if "impl" in entry)
        elif isinstance(value, dict):
            yield from _named_modules(value)


def dataset_contents(folder: str | Path) -> Contents:
    """What `push_dataset_folder` takes: Parquet, WebDataset, JSON, CSV, text, images; at any depth."""
    folder = Path(folder)
    if not folder.is_dir():
        raise PublishError(f"{folder} is not a folder. Give the folder of a data set.")
    files: dict[str, Path] = {}
    left_out = []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file():
            wanted = matches(path.name, DATASET_FILES) and not matches(name, NEVER)
            if wanted:
                files[name] = path
            else:
                left_out.append(name)
    if not any(not matches(name, ("*.md", "LICENSE*", "NOTICE*")) for name in files):
        raise PublishError(f"{folder} has no data to publish; known are {', '.join(DATASET_FILES)}.")
    return Contents(files, tuple(left_out))


def refuse_secrets(files: Mapping[str, Path | bytes]) -> None:
    """Raise `PublishError` if a text file holds what looks like a key; the key itself is not repeated."""
    for name, source in files.items():
        if Path(name).suffix.lower() not in TEXT_SUFFIXES:
            continue
        if isinstance(source, bytes):
            text = source[:SCANNED_BYTES].decode("utf-8", errors="ignore")
        else:
            with open(source, "rb") as file:
                text = file.read(SCANNED_BYTES).decode("utf-8", errors="ignore")
        for what, pattern in SECRETS.items():
            if match := pattern.search(text):
                line = text.count("\n", 0, match.start()) + 1
                raise PublishError(
                    f"{name}, line {line}, holds what looks like {what} ({match[0][:6]}…). Nothing was sent. Remove "
                    "it, and revoke it if others could have seen it."
                )


def read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise PublishError(f"{path} cannot be read as JSON ({error}). Save the model again.") from error
    if not isinstance(value, dict):
        raise PublishError(f"{path} holds {type(value).__name__} where an object is expected. Save the model again.")
    return value


def code_beside(folder: Path, into: Path) -> dict[str, Path]:
    """Repository path -> file for what a folder lacks to load where this package is not installed; {} for nothing.

    These are the package's Python files and the configuration files that name them; they are written to `into`.
    """
    named = code_files(folder)
    if named and all((folder / name).is_file() for name in named):
        return {}
    into.mkdir(parents=True, exist_ok=True)
    for name in NAMING:
        shutil.copyfile(folder / name, into / name)
    pixelllm_hf.export_code(into)
    return {path.name: path for path in sorted(into.iterdir()) if path.is_file()}
