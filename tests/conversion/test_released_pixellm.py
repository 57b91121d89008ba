"""A folder with the names and files of a release becomes one that answers."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from pixelllm_hf import PixelLMForReasoningSegmentation, PixelLMProcessor
from pixelllm_hf.conversion.pixellm import ReleasedNamesError
from pixelllm_hf.conversion.released_pixellm import convert_release
from pixelllm_hf.conversion.weight_sources import WeightSourceError

OUR_NECK = {"0.weight": "0.weight", "0.norm": "1", "1.weight": "2.weight", "1.norm": "3"}
SMALL = ("tokens_per_scale", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")


@pytest.fixture
def release(small_pixellm: Path, tmp_path: Path) -> tuple[Path, Path, dict]:
    """Folders of the released model and of CLIP, in shards and pickles as published, and what is smaller than usual."""
    model = PixelLMForReasoningSegmentation.from_pretrained(small_pixellm)
    weights, clip = {}, {}
    for name, value in model.state_dict().items():
        part, _, rest = name.partition(".")
        if part == "vision_tower":
            clip[f"vision_model.{rest.removeprefix('vision_model.')}"] = value
        elif part == "language_model":
            last = len(value) - 1 if value.shape[0] == model.config.text_config.vocab_size else len(value)
            weights[f"model.{rest}" if not rest.startswith(("model.", "lm_head.")) else rest] = value[:last].clone()
        elif part == "target_projection" and not rest.endswith("token_scales"):
            weights[f"model.text_hidden_fcs.0.{rest.removeprefix('text_hidden_fcs.')}"] = value
        elif part == "image_feature_neck":
            layer = next(ours for ours in OUR_NECK if rest.startswith(ours))
            weights[f"model.{part}.{rest.replace(layer, OUR_NECK[layer])}"] = value
        elif rest.startswith(("no_mask_embed.", "pe_layer.")):
            weights[f"model.prompt_encoder.{rest}"] = value
        elif not name.endswith(("level_scales", "token_scales")):
            weights[f"model.{name}"] = value
    released, tower = tmp_path / "released", tmp_path / "clip"
    released.mkdir()
    tower.mkdir()
    torch.save(weights, released / "pytorch_model.bin")
    (released / "config.json").write_text(json.dumps(model.config.text_config.to_dict() | {"model_type": "llava"}))
    for file in small_pixellm.glob("tokenizer*"):
        shutil.copy(file, released)
    save_file({name: value.contiguous() for name, value in clip.items()}, tower / "model.safetensors")
    sizes = model.config.vision_config.to_dict() | {"image_size": 32}
    (tower / "config.json").write_text(json.dumps({"model_type": "clip", "vision_config": sizes}))
    config = model.config
    small = {
        "codebook_config": {name: getattr(config.codebook_config, name) for name in SMALL},
        "feature_layers": list(config.feature_layers),
        "image_token_grid": config.image_token_grid,
        "image_size": config.image_size,
    }
    return released, tower, small


def test_a_converted_release_answers_as_the_model_whose_weights_it_has(release, small_pixellm: Path, tmp_path: Path):
    released, tower, small = release
    out = tmp_path / "out"
    convert_release(str(released), str(tower), out, dtype=torch.float32, config=small)
    image = Image.effect_noise((60, 40), 80).convert("RGB")
    sequences, masks = [], []
    for folder in (out, small_pixellm):
        model, processor = (
            PixelLMForReasoningSegmentation.from_pretrained(folder),
            PixelLMProcessor.from_pretrained(folder),
        )
        inputs = processor(images=image, text="what can be eaten?")
        output = model.eval().generate(**inputs, max_new_tokens=24)
        sequences.append(output.sequences.tolist())
        masks.append(output.mask_logits)
    assert sequences[0] == sequences[1] and len(masks[0])
    torch.testing.assert_close(masks[0], masks[1], rtol=1e-3, atol=1e-4)


def test_weights_are_stored_in_the_type_that_is_asked_for(release, tmp_path: Path):
    released, tower, small = release
    convert_release(str(released), str(tower), tmp_path / "out", config=small)
    model = PixelLMForReasoningSegmentation.from_pretrained(tmp_path / "out")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}


def test_what_is_missing_of_a_release_is_said_by_name(release, tmp_path: Path):
    released, tower, small = release
    with pytest.raises(ReleasedNamesError, match="no vision_model"):
        convert_release(str(released), str(released), tmp_path / "out", config=small)
    with pytest.raises(WeightSourceError, match="nowhere"):
        convert_release(str(tmp_path / "nowhere"), str(tower), tmp_path / "out", config=small)
    (released / "config.json").unlink()
    with pytest.raises((ReleasedNamesError, OSError), match=r"config\.json"):
        convert_release(str(released), str(tower), tmp_path / "out", config=small)
    assert not (tmp_path / "out").exists()


def test_the_script_says_what_is_wrong_in_one_line(tmp_path: Path):
    script = Path(__file__).parents[2] / "scripts" / "convert_pixellm.py"
    words = ["--released", str(tmp_path / "nothing"), "--clip", "x", "--out", str(tmp_path / "out")]
    done = subprocess.run([sys.executable, script, *words], capture_output=True, text=True, timeout=600)
    assert done.returncode == 2 and "Traceback" not in done.stderr and "nothing" in done.stderr
