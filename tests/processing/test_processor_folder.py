"""What is wrong with a processor's files is said by file and field; saving leaves whole files."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoProcessor

from pixelllm_hf import PixelLLMProcessor
from pixelllm_hf.processing.processor_folder import ProcessorFolderError

Damage = Callable[[Path], Any]


@pytest.fixture
def folder(small_checkpoint: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(small_checkpoint, tmp_path / "model"))


def setting(file: str, path: str, value: Any) -> Damage:
    """Sets the entry `path`, dotted, of a JSON file."""

    def damage(folder: Path) -> None:
        content = json.loads((folder / file).read_text())
        *parents, last = path.split(".")
        inner = content
        for parent in parents:
            inner = inner[parent]
        inner[last] = value
        (folder / file).write_text(json.dumps(content))

    return damage


def write(file: str, content: bytes) -> Damage:
    return lambda folder: (folder / file).write_bytes(content)


DAMAGES: dict[str, tuple[Damage, str]] = {
    "processor config: cut": (write("processor_config.json", b'{"image'), "processor_config.json cannot be read"),
    "processor config: a list": (write("processor_config.json", b"[]"), "processor_config.json cannot be read"),
    "processor config: too deep": (write("processor_config.json", b"[" * 100_000), "nested too deeply"),
    "a huge canvas": (
        setting("processor_config.json", "image_processor.size", {"height": 10**6, "width": 10**6}), "canvas",
    ),
    "a canvas of text": (
        setting("processor_config.json", "image_processor.size", {"height": "a", "width": "a"}), "cannot be loaded",
    ),
    "a class of another type": (
        setting("processor_config.json", "image_processor.image_processor_type", [1]), "cannot be loaded",
    ),
    "normalised twice": (setting("processor_config.json", "image_processor.do_normalize", True), "do_normalize"),
    "antialias": (setting("processor_config.json", "image_processor.antialias", "x"), "antialias"),
    "max_points": (setting("processor_config.json", "max_points", -1), "max_points"),
    "max_prompt_tokens": (setting("processor_config.json", "max_prompt_tokens", "many"), "max_prompt_tokens"),
    "pixels without end": (
        setting("processor_config.json", "image_processor.max_image_pixels", 10**30), "max_image_pixels",
    ),
    "tokenizer: cut": (write("tokenizer.json", b'{"version": "1.0"'), "tokenizer.json cannot be read"),
    "tokenizer: no model": (write("tokenizer.json", b'{"version": "1.0"}'), "tokenizer.json cannot be loaded"),
    "tokenizer: no end": (setting("tokenizer_config.json", "eos_token", None), "no eos_token"),
    "tokenizer: its longest text": (setting("tokenizer_config.json", "model_max_length", "x"), "model_max_length must"),
    "tokenizer config: a list": (write("tokenizer_config.json", b"[]"), "tokenizer_config.json cannot be read"),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_wrong_is_said_by_file_and_field(damage: str, folder: Path) -> None:
    change, told = DAMAGES[damage]
    change(folder)
    # AutoProcessor looks into this file for the class before it asks ours.
    for load in (PixelLLMProcessor,) if damage.startswith("processor config") else (PixelLLMProcessor, AutoProcessor):
        with pytest.raises(ProcessorFolderError, match=told) as raised:
            load.from_pretrained(folder)
        assert str(folder) in str(raised.value)


def test_a_folder_without_a_processor_says_so(tmp_path: Path) -> None:
    with pytest.raises(ProcessorFolderError, match="has no processor"):
        PixelLLMProcessor.from_pretrained(tmp_path)


def test_a_save_that_fails_leaves_the_files_that_were_there(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = {path.name: path.read_bytes() for path in folder.iterdir()}
    processor = PixelLLMProcessor.from_pretrained(folder)

    def full(target: str, **options: Any) -> None:
        (Path(target) / "tokenizer.json").write_text("half")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space"):
        patch.setattr(processor.tokenizer, "save_pretrained", full)
        processor.save_pretrained(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == held
    assert processor.save_pretrained(folder) == [str(folder / "processor_config.json")]
