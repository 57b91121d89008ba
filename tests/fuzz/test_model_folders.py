"""Model folders of any content: a model that answers, or a typed error at once and in little memory."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from pixelllm_hf import PixelLLMConfig, PixelLLMForGroundedGeneration, PixelLLMProcessor
from pixelllm_hf.inference import Captioner, ModelError, Request
from pixelllm_hf.modeling.model_folder import ModelFolderError
from pixelllm_hf.processing.processor_folder import ProcessorFolderError

SETTINGS = ("config.json", "generation_config.json", "processor_config.json", "tokenizer_config.json", "tokenizer.json")
INDEX = "model.safetensors.index.json"


def damage(fuzz: Any, folder: Path, chance: random.Random) -> tuple[str, bytes]:
    """One file of a model folder, damaged: its name and its bytes."""
    name = chance.choice((*SETTINGS, *SETTINGS[:3], "model.safetensors", INDEX, "adapter_config.json"))
    if name == INDEX:
        content: Any = {"metadata": {}, "weight_map": {"lm_head.weight": "model-00001-of-00002.safetensors"}}
    elif name == "adapter_config.json":
        content = {"base_model_name_or_path": "nowhere", "peft_type": "LORA", "r": 4, "target_modules": ["q"]}
    else:
        whole = (folder / name).read_bytes()
        if name == "model.safetensors" or chance.random() < 0.2:
            return name, fuzz.damaged_bytes(whole, chance)
        content = json.loads(whole)
    return name, fuzz.as_json(fuzz.damaged(content, chance))


def laid_out(folder: Path, damaged: tuple[str, bytes], place: Path) -> Path:
    """A copy of the folder with the damaged file in it."""
    name, content = damaged
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(folder, place)
    if name == INDEX:
        (place / "model.safetensors").unlink()
    (place / name).write_bytes(content)
    return place


def test_a_damaged_folder_is_refused_or_answers(
    fuzz: Any, fuzz_inputs: int, small_checkpoint: Path, tmp_path: Path
) -> None:
    image = np.zeros((40, 40, 3), np.uint8)

    def attempt(damaged: tuple[str, bytes]) -> None:
        place = laid_out(small_checkpoint, damaged, tmp_path / "model")
        captioner = Captioner.load(str(place), "cpu", "auto", {"max_new_tokens": 2})
        fuzz.must(captioner.model.config.image_size <= 4096, "an image size that nobody means")
        if captioner.processor.image_processor.canvas == 64:
            fuzz.must(len(captioner([image], Request("caption"))) == 1, "no answer")

    fuzz.run(
        attempt,
        lambda chance: damage(fuzz, small_checkpoint, chance),
        fuzz_inputs // 2,
        typed=[ModelError],
        megabytes=512,
    ).check()


def test_plain_from_pretrained_of_a_damaged_folder_refuses_or_loads(
    fuzz: Any, fuzz_inputs: int, small_checkpoint: Path, tmp_path: Path
) -> None:
    def attempt(damaged: tuple[str, bytes]) -> None:
        place = laid_out(small_checkpoint, damaged, tmp_path / "model")
        PixelLLMConfig.from_pretrained(place)
        PixelLLMProcessor.from_pretrained(place)
        model = PixelLLMForGroundedGeneration.from_pretrained(place)
        fuzz.must(all(weight.isfinite().all() for weight in model.parameters()), "a weight that is not finite")

    fuzz.run(
        attempt,
        lambda chance: damage(fuzz, small_checkpoint, chance),
        fuzz_inputs // 2,
        typed=[ModelFolderError, ProcessorFolderError],
        megabytes=512,
    ).check()
