"""The code beside the weights: a folder that loads where this package is not installed."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers.dynamic_module_utils import get_relative_import_files

PIPELINE_TASK = "grounded-captioning"


class CodeExportError(ValueError):
    """The folder or the classes are not what code can be put beside."""


def export_code(
    folder: str | Path,
    *,
    config: type,
    model: type,
    processor: type,
    image_processor: type,
    pipeline: type,
) -> list[Path]:
    """Copy the files of these classes, and of the siblings that they import, into a saved checkpoint and name them.

    folder: what `save_pretrained` of the model and of the processor wrote. Afterwards `trust_remote_code=True` is all
    that the Auto classes and `pipeline` need. Done again it replaces what it wrote. Returns the Python files.
    """
    folder = Path(folder)
    settings = {name: _read(folder / name) for name in ("config.json", "processor_config.json")}
    written = _copy_code(folder, config, model, processor, image_processor, pipeline)
    _name_classes(settings["config.json"], AutoConfig=config, AutoModel=model, AutoModelForImageTextToText=model)
    settings["config.json"]["custom_pipelines"] = {PIPELINE_TASK: {"impl": _reference(pipeline), "pt": ["AutoModel"]}}
    _name_processor(settings["processor_config.json"], processor, image_processor)
    # Last, so that no setting names code that is not there yet.
    for name, values in settings.items():
        _write(folder / name, values)
    return written


def export_processor_code(folder: str | Path, *, processor: type, image_processor: type) -> list[Path]:
    """`export_code` of a processor alone: folder is what its `save_pretrained` wrote."""
    path = Path(folder) / "processor_config.json"
    settings = _read(path)
    written = _copy_code(Path(folder), processor, image_processor)
    _name_processor(settings, processor, image_processor)
    _write(path, settings)
    return written


def _copy_code(folder: Path, *classes: type) -> list[Path]:
    targets: dict[str, Path] = {}
    for cls in classes:
        for source in _files_of(cls):
            if targets.setdefault(source.name, source).read_bytes() != source.read_bytes():
                raise CodeExportError(
                    f"file names must differ, as all files lie in one folder, but {targets[source.name]} and {source} "
                    "have the same. Rename one of them."
                )
    written = []
    for name, source in sorted(targets.items()):
        if source.resolve() != (folder / name).resolve():
            shutil.copyfile(source, folder / name)
        written.append(folder / name)
    return written


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise CodeExportError(
            f"code goes beside a saved model and processor, but {path} does not exist. Call save_pretrained of both "
            "with this folder first."
        )
    return json.loads(path.read_text(encoding="utf-8"))


def _write(path: Path, settings: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _files_of(cls: type) -> list[Path]:
    """The file that defines a class, and all that it imports relatively, directly or not."""
    file = getattr(sys.modules.get(cls.__module__), "__file__", None)
    if file is None:
        raise CodeExportError(
            f"{cls.__name__} is defined in {cls.__module__}, which is no file. Put the class into a file of its own."
        )
    return [Path(file), *map(Path, get_relative_import_files(file))]


def _name_processor(settings: dict[str, Any], processor: type, image_processor: type) -> None:
    _name_classes(settings, AutoProcessor=processor, AutoImageProcessor=image_processor)
    if isinstance(settings.get("image_processor"), dict):
        _name_classes(settings["image_processor"], AutoImageProcessor=image_processor)


def _name_classes(settings: dict[str, Any], **classes: type) -> None:
    known: Mapping[str, str] = settings.get("auto_map") or {}
    settings["auto_map"] = {**known, **{auto: _reference(cls) for auto, cls in classes.items()}}


def _reference(cls: type) -> str:
    return f"{cls.__module__.rpartition('.')[2]}.{cls.__name__}"


__all__ = ["PIPELINE_TASK", "CodeExportError", "export_code", "export_processor_code"]
