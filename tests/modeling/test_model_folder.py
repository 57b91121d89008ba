"""What is wrong with a model folder is said by file and field; saving leaves the former model or the new one."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel

from pixelllm_hf import PixelLLMConfig, PixelLLMForGroundedGeneration
from pixelllm_hf.modeling.model_folder import ModelFolderError

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
            inner = inner[int(parent) if parent.isdigit() else parent]
        inner[last] = value
        (folder / file).write_text(json.dumps(content))

    return damage


def index(weight_map: Any) -> Damage:
    def damage(folder: Path) -> None:
        (folder / "model.safetensors").rename(folder.parent / "outside.safetensors")
        (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))

    return damage


def one_weight(value: float) -> Damage:
    def damage(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        tensors["point_head.layers.0.weight" if "point_head.layers.0.weight" in tensors else sorted(tensors)[0]][0] = (
            value
        )
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})

    return damage


DAMAGES: dict[str, tuple[Damage, str]] = {
    "no config": (lambda f: (f / "config.json").unlink(), "no config.json"),
    "an empty config": (lambda f: (f / "config.json").write_text("{}"), "config.json: model_type"),
    "a list": (lambda f: (f / "config.json").write_text("[]"), "config.json holds a list"),
    "too deep": (lambda f: (f / "config.json").write_text("[" * 100_000), "config.json.*too deeply"),
    "not UTF-8": (lambda f: (f / "config.json").write_bytes(b"\xff\xfe"), "config.json cannot be read"),
    "another model": (setting("config.json", "model_type", "t5"), "config.json: model_type is 't5'"),
    "a number as text": (setting("config.json", "point_loss_weight", "a"), "point_loss_weight"),
    "a negative weight": (setting("config.json", "point_loss_weight", -1.0), "point_loss_weight must not be negative"),
    "a rate above 1": (setting("config.json", "text_config.dropout_rate", 1.5), "text_config.dropout_rate"),
    "NaN": (setting("config.json", "vision_config.towers.0.rope_theta", float("nan")), r"towers\[0\].rope_theta"),
    "layers of a tower": (setting("config.json", "vision_config.towers.1.num_hidden_layers", 10**9), r"towers\[1\]"),
    "a tower that brings code": (setting("config.json", "vision_config.towers.1._attn_implementation", "a/b"), "code"),
    "a billion layers": (setting("config.json", "text_config.num_layers", 10**9), "text_config.num_layers"),
    "a million prompt tokens": (setting("config.json", "prompt_config.num_tokens", 10**6), "prompt_config.num_tokens"),
    "no heads": (setting("config.json", "text_config.num_heads", 0), "text_config.num_heads must lie within 1"),
    "no grid": (setting("config.json", "vision_config.fused_grid_size", 0), "vision_config.fused_grid_size"),
    "two colours": (setting("config.json", "vision_config.towers.0.image_mean", [0.0, 0.0]), "image_mean of tower"),
    "no deviation": (setting("config.json", "vision_config.towers.0.image_std", [1.0, 0.0, 1.0]), "image_std of tower"),
    "a huge canvas": (setting("config.json", "vision_config.image_size", 10**6), "vision_config.image_size"),
    "a long list": (setting("config.json", "proposal_head_config.roi_hidden_sizes", [8] * 10**5), "roi_hidden_sizes"),
    "a negative token": (setting("config.json", "text_config.eos_token_id", -1), "text_config.eos_token_id"),
    "more words than weights": (setting("config.json", "text_config.vocab_size", 4_000_000), "weight files hold"),
    "code of the Hub": (setting("config.json", "attn_implementation", "org/kernel"), "code of a repository"),
    "weights elsewhere": (setting("config.json", "transformers_weights", "../w.safetensors"), "transformers_weights"),
    "a dtype": (setting("config.json", "dtype", "evil"), "evil"),
    "generation: no JSON": (lambda f: (f / "generation_config.json").write_text("{"), "generation_config.json"),
    "generation: text": (setting("generation_config.json", "max_new_tokens", "x"), "generation_config.json: max_new"),
    "generation: beams": (setting("generation_config.json", "num_beams", 10**9), "generation_config.json: num_beams"),
    "generation: no beams": (setting("generation_config.json", "num_beams", 0), "num_beams must lie within 1"),
    "generation: no start": (setting("generation_config.json", "decoder_start_token_id", []), "decoder_start_token_id"),
    "generation: a token": (setting("generation_config.json", "pad_token_id", -5), "pad_token_id"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "no weights"),
    "cut weights": (lambda f: os.truncate(f / "model.safetensors", 9000), "model.safetensors is damaged"),
    "an index without weights": (index({}), "weight_map"),
    "an index with null": (index(None), "weight_map"),
    "a shard outside": (index({"a": "../outside.safetensors"}), "no safetensors file of the folder"),
    "an absolute shard": (index({"a": "/etc/model.safetensors"}), "no safetensors file of the folder"),
    "a pickled shard": (index({"a": "model.bin"}), "no safetensors file of the folder"),
    "a shard that is not there": (index({"a": "model-1.safetensors"}), "model-1.safetensors, which is not there"),
    "a NaN weight": (one_weight(float("nan")), "not finite"),
    "an infinite weight": (one_weight(float("inf")), "not finite"),
    "an adapter": (lambda f: (f / "adapter_config.json").write_text("[]"), "adapter_config.json holds a list"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_wrong_is_said_by_file_and_field(damage: str, folder: Path) -> None:
    change, told = DAMAGES[damage]
    change(folder)
    with pytest.raises(ModelFolderError, match=told) as raised:
        PixelLLMForGroundedGeneration.from_pretrained(folder)
    assert str(folder) in str(raised.value)


def test_the_auto_classes_refuse_in_the_same_way(folder: Path) -> None:
    setting("config.json", "text_config.num_layers", 10**9)(folder)
    for auto in (AutoConfig, AutoModel):
        with pytest.raises(ModelFolderError, match="text_config.num_layers"):
            auto.from_pretrained(folder)


def test_an_adapter_that_names_no_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA", "base_model_name_or_path": null}')
    with pytest.raises(ModelFolderError, match="base_model_name_or_path is None"):
        PixelLLMForGroundedGeneration.from_pretrained(tmp_path)


class Command:
    def __init__(self, made: Path):
        self.made = made

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.made),)


def test_pickled_weights_are_never_read(folder: Path, tmp_path: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"a": Command(tmp_path / "made")}))
    with pytest.raises(ModelFolderError, match="pickle"):
        PixelLLMForGroundedGeneration.from_pretrained(folder)
    with pytest.raises(ValueError, match="use_safetensors"):
        PixelLLMForGroundedGeneration.from_pretrained(folder, use_safetensors=False)
    assert not (tmp_path / "made").exists()


def test_a_new_head_may_start_at_random(folder: Path) -> None:
    setting("config.json", "mask_head_config", None)(folder)
    PixelLLMForGroundedGeneration.from_pretrained(folder).save_pretrained(folder)
    with_head = PixelLLMConfig.from_pretrained(folder).to_dict()
    with_head["mask_head_config"] = PixelLLMConfig.for_tests().mask_head_config.to_dict()
    model = PixelLLMForGroundedGeneration.from_pretrained(folder, config=PixelLLMConfig(**with_head))
    assert model.mask_head is not None


# ---------------------------------------------------------------- saving


def states(folder: Path) -> dict[str, torch.Tensor]:
    return PixelLLMForGroundedGeneration.from_pretrained(folder).state_dict()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
@pytest.mark.parametrize("there", [True, False], ids=["over a model", "into a new folder"])
def test_a_save_that_is_killed_half_way_leaves_what_was_there(there: bool, folder: Path, tmp_path: Path) -> None:
    before, target = states(folder), folder if there else tmp_path / "new"
    model = PixelLLMForGroundedGeneration.from_pretrained(folder)
    if (child := os.fork()) == 0:
        from transformers import modeling_utils

        def half(tensors: Any, name: str, metadata: Any = None) -> None:
            Path(name).write_bytes(b"half a header")
            os.kill(os.getpid(), signal.SIGKILL)

        modeling_utils.safe_save_file = half
        model.save_pretrained(target)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    if there:
        after = states(folder)
        assert all(after[name].equal(tensor) for name, tensor in before.items())
    else:
        assert not target.exists()
    model.save_pretrained(target)
    assert states(target).keys() == before.keys()


def test_a_save_that_fails_leaves_what_was_there_and_no_rest(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = {path.name: path.read_bytes() for path in folder.iterdir()}

    def full(tensors: Any, name: str, metadata: Any = None) -> None:
        Path(name).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    model = PixelLLMForGroundedGeneration.from_pretrained(folder)
    monkeypatch.setattr("transformers.modeling_utils.safe_save_file", full)
    with pytest.raises(OSError, match="No space"):
        model.save_pretrained(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == held


def test_a_full_disk_is_an_os_error_that_names_the_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from safetensors import SafetensorError
    from transformers import modeling_utils

    def full(*given: Any, **options: Any) -> None:
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    model = PixelLLMForGroundedGeneration.from_pretrained(folder)
    with monkeypatch.context() as patch, pytest.raises(OSError, match=f"{folder.name}.*No space left.*there still"):
        patch.setattr(modeling_utils, "safe_save_file", full)
        model.save_pretrained(folder)
    PixelLLMForGroundedGeneration.from_pretrained(folder)


def test_weights_of_an_earlier_save_are_not_loaded_in_the_place_of_the_new_ones(folder: Path) -> None:
    model = PixelLLMForGroundedGeneration.from_pretrained(folder)
    (folder / "notes.txt").write_text("mine")
    for size, sharded in (("100KB", True), ("1GB", False)):
        with torch.no_grad():
            model.language_model.lm_head.weight.add_(1)
        model.save_pretrained(folder, max_shard_size=size)
        assert (folder / "model.safetensors.index.json").exists() == sharded != (folder / "model.safetensors").exists()
        assert states(folder)["language_model.lm_head.weight"].equal(model.language_model.lm_head.weight)
    assert (folder / "notes.txt").read_text() == "mine" and (folder / "tokenizer.json").exists()
