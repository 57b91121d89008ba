"""Published parts become a PixelLM that can be trained."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

from pixelllm_hf import PixelLMConfig, PixelLMForReasoningSegmentation, PixelLMProcessor
from pixelllm_hf.conversion.new_pixellm import new_pixellm
from pixelllm_hf.conversion.pixellm import ReleasedNamesError
from pixelllm_hf.data import train_tokenizer

SMALL = {
    "codebook_config": {"tokens_per_scale": 2, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2},
    "feature_layers": [-2, -3],
    "image_token_grid": 4,
}


@pytest.fixture
def parts(tmp_path: Path) -> tuple[Path, Path]:
    """Folders of a language model with its tokenizer and of a CLIP for half the canvas."""
    language, clip = tmp_path / "language", tmp_path / "clip"
    tokenizer = train_tokenizer(["what can be eaten? a red apple."], max_pieces=90)
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2
    )
    LlamaForCausalLM(config).save_pretrained(language)
    tokenizer.save_pretrained(language)
    model = PixelLMForReasoningSegmentation(PixelLMConfig.for_tests())
    weights = model.vision_tower.state_dict()
    table = "vision_model.embeddings.position_embedding.weight"
    clip.mkdir()
    save_file(weights | {table: weights[table][: 1 + 4 * 4].clone()}, clip / "model.safetensors")
    sizes = model.config.vision_config.to_dict() | {"image_size": 32}
    (clip / "config.json").write_text(json.dumps({"model_type": "clip", "vision_config": sizes}))
    return language, clip


def test_a_new_pixellm_knows_what_its_parts_know_and_its_processor_fits(parts, tmp_path: Path) -> None:
    language, clip = parts
    new_pixellm(str(language), str(clip), tmp_path / "out", image_size=64, config=SMALL)
    model = PixelLMForReasoningSegmentation.from_pretrained(tmp_path / "out").eval()
    processor = PixelLMProcessor.from_pretrained(tmp_path / "out")
    assert processor.misfit(model.config) is None
    alone = LlamaForCausalLM.from_pretrained(language).eval()
    ids = processor.tokenizer("a red apple", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        known = alone(ids).logits
        assert torch.equal(model.language_model(ids).logits[..., : known.shape[-1]], known)
    vocabulary = model.get_input_embeddings().get_parameter("weight")
    old = alone.get_input_embeddings().get_parameter("weight")
    mean = old.mean(0).expand(len(vocabulary) - len(old), -1)
    torch.testing.assert_close(vocabulary[len(old) :], mean)
    inputs = processor(images=torch.rand(3, 48, 64), text="what can be eaten?")
    assert torch.isfinite(model(**inputs).logits).all()


def test_a_clip_that_lacks_something_is_named(parts, tmp_path: Path) -> None:
    language, clip = parts
    with pytest.raises(ReleasedNamesError, match="no vision_model"):
        new_pixellm(str(language), str(language), tmp_path / "out", image_size=64, config=SMALL)
    assert not (tmp_path / "out").exists()
