"""A processor's files: what is damaged is said by file and field; saving leaves the former ones or the new ones."""

import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .canvas_transform import ROUNDINGS

MAX_JSON_BYTES = 64_000_000
FILES = (
    "processor_config.json",
    "preprocessor_config.json",
    "tokenizer_config.json",
    "tokenizer.json",
    "special_tokens_map.json",
    "added_tokens.json",
)
NEVER = ("do_rescale", "do_normalize", "do_center_crop")  # each tower normalises for itself
# Setting -> the numbers it may be.
RANGES = {
    "canvas": (1, 4096),
    "max_image_pixels": (1, 1 << 34),
    "max_prompt_tokens": (2, 1 << 16),
    "max_points": (1, 1024),
    "num_image_tokens": (1, 1 << 16),
}


class ProcessorFolderError(OSError, ValueError):
    """A folder has no processor, or a damaged one."""


@contextmanager
def processor_errors(name: Any, subfolder: str | None = None) -> Iterator[None]:
    """What befalls transformers and tokenizers on damaged files becomes a `ProcessorFolderError` that names the file.

    name: as for `from_pretrained`. What transformers itself says about a repository of the Hub stays as it is.
    """
    folder = _local_folder(name, subfolder)
    if folder is not None:
        _check_files(folder)
    try:
        yield
    except (ProcessorFolderError, ImportError, MemoryError):
        raise
    except BaseException as error:
        # tokenizers' panics are no Exception
        fatal = not isinstance(error, Exception) and type(error).__name__ != "PanicException"
        if fatal or (folder is None and isinstance(error, (OSError, ValueError))):
            raise
        where = folder if folder is None else _damaged_tokenizer(folder) or folder
        text = " ".join(str(error).split())[:600] or type(error).__name__
        raise ProcessorFolderError(f"the processor of {where or name} cannot be loaded: {text}") from error


def check_settings(processor: Any, name: Any) -> None:
    """Raise for settings of the wrong type or size, and for a tokenizer that cannot end or pad a text."""
    images = processor.image_processor
    given = {
        "canvas": getattr(images, "canvas", None),
        "max_image_pixels": getattr(images, "max_image_pixels", None),
        "max_prompt_tokens": processor.max_prompt_tokens,
        # each family has some of its own
        **{own: getattr(processor, own) for own in ("max_points", "num_image_tokens") if hasattr(processor, own)},
    }
    for setting, value in given.items():
        low, high = RANGES[setting]
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            shown = repr(value)[:100]
            raise ProcessorFolderError(
                f"processor_config.json of {name}: {setting} must be a whole number in {low}..{high}, but is {shown}."
            )
    for switch in [name for name in vars(images) if name.startswith("do_")]:
        value, may_be = getattr(images, switch), (None, False) if switch in NEVER else (None, False, True)
        if not any(value is one for one in may_be):
            raise ProcessorFolderError(
                f"processor_config.json of {name}: {switch} must be {' or '.join(map(str, may_be[1:]))}, but is "
                f"{repr(value)[:100]}. The model takes whole images with pixels of 0..255."
            )
    threshold = processor.visual_threshold
    if not isinstance(threshold, (int, float)) or isinstance(threshold, bool) or not 0 <= threshold <= 1:
        raise ProcessorFolderError(
            f"processor_config.json of {name}: visual_threshold must be a number of 0 to 1, but is {threshold!r}."
        )
    if not isinstance(images.antialias, bool):
        raise ProcessorFolderError(
            f"processor_config.json of {name}: antialias must be true or false, but is {images.antialias!r}."
        )
    if images.rounding not in ROUNDINGS:
        raise ProcessorFolderError(
            f"processor_config.json of {name}: rounding must be {' or '.join(ROUNDINGS)}, but is "
            f"{repr(images.rounding)[:100]}."
        )
    longest = processor.tokenizer.model_max_length
    if not isinstance(longest, (int, float)) or isinstance(longest, bool) or not longest > 0:
        raise ProcessorFolderError(
            f"tokenizer_config.json of {name}: model_max_length must be a positive number, but is {repr(longest)[:99]}."
        )
    # What else its settings break shows when it is used; a text of one word tries reading and writing.
    processor.tokenizer.decode(processor.tokenizer("a", add_special_tokens=False)["input_ids"])
    for token in ("eos_token_id", "pad_token_id"):
        if not isinstance(getattr(processor.tokenizer, token, None), int):
            raise ProcessorFolderError(
                f"the tokenizer of {name} has no {token.removesuffix('_id')} among its pieces. Copy or save "
                "tokenizer.json and tokenizer_config.json again."
            )


def _check_files(folder: Path) -> None:
    if not any((folder / name).is_file() for name in FILES):
        raise ProcessorFolderError(
            f"{folder} has no processor: neither processor_config.json nor tokenizer.json. Give the folder that the "
            "processor's save_pretrained wrote."
        )
    for name in FILES:
        if (folder / name).exists():
            _check_json(folder / name)


def _check_json(file: Path) -> None:
    try:
        if not file.is_file():
            raise ValueError("it is no file")
        if file.stat().st_size > MAX_JSON_BYTES:
            raise ValueError(f"it has more than {MAX_JSON_BYTES} bytes")
        content = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError(f"a {type(content).__name__} where an object is expected")
    except (OSError, ValueError, RecursionError) as error:
        told = "nested too deeply" if isinstance(error, RecursionError) else error
        raise ProcessorFolderError(f"{file} cannot be read: {told}. Copy or save it again.") from error


def _damaged_tokenizer(folder: Path) -> Path | None:
    """`tokenizer.json` if it is what cannot be loaded; the library's own message does not name it."""
    from tokenizers import Tokenizer

    file = folder / "tokenizer.json"
    try:
        if file.is_file():
            Tokenizer.from_file(str(file))
        return None
    except BaseException:  # panics, too
        return file


def _local_folder(name: Any, subfolder: str | None) -> Path | None:
    try:
        folder = Path(name, subfolder or "")
        return folder if folder.is_dir() else None
    except (TypeError, ValueError):
        return None


@contextmanager
def files_replaced(target: Path) -> Iterator[Path]:
    """A temporary folder to save into; on leaving its files take their places in `target`, each of them whole."""
    target = Path(os.path.abspath(target))
    target.mkdir(parents=True, exist_ok=True)
    temporary = target / f".{uuid.uuid4().hex[:12]}.saving"
    temporary.mkdir()
    try:
        yield temporary
        for file in [path for path in sorted(temporary.rglob("*")) if path.is_file()]:
            place = target / file.relative_to(temporary)
            place.parent.mkdir(parents=True, exist_ok=True)
            file.replace(place)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
