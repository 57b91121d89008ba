"""Locations as text, and the recipes of `scripts/ablate_locations.py`."""

from __future__ import annotations

import runpy
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from pixelllm_hf import PixelLLMForGroundedGeneration, embedded_checkpoint

SCRIPT = runpy.run_path(str(Path(__file__).parents[2] / "scripts" / "ablate_locations.py"), run_name="ablate_locations")


@pytest.mark.parametrize("kind", ["strings", "bins"])
def test_a_written_box_is_read_again_to_half_a_hundredth(kind: str):
    box, size = [13.0, 40.0, 199.0, 100.0], (200, 100)
    read = SCRIPT["read"](SCRIPT["written"](box, size, kind), size)
    assert read == pytest.approx(box, abs=1.0)


def test_text_without_four_numbers_is_nowhere():
    assert SCRIPT["read"]("a red car 12 30", (100, 100)) == [0.0, 0.0, 0.0, 0.0]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Any:
    made = SCRIPT["Prepared"].in_folder(tmp_path_factory.mktemp("locations") / "out", 2, 1)
    shutil.copytree(made.new, made.start / "model")  # as if its run had learnt nothing
    return made


def test_bins_are_one_token_each_and_strings_are_spelt(prepared: Any):
    tokenizer = AutoTokenizer.from_pretrained(prepared.new)
    assert len(tokenizer("<10> <20> <50> <99>", add_special_tokens=False).input_ids) <= 2 * 4  # and blanks
    assert len(tokenizer("10 20 50 99", add_special_tokens=False).input_ids) >= 2 * 4


def test_what_all_start_from_sees_as_the_embedded_model_and_has_told_no_location(prepared: Any):
    tiny = PixelLLMForGroundedGeneration.from_pretrained(embedded_checkpoint("tiny"), dtype=torch.float32).state_dict()
    new = PixelLLMForGroundedGeneration.from_pretrained(prepared.new, dtype=torch.float32).state_dict()
    words, known = new["language_model.body.shared.weight"], tiny["language_model.body.shared.weight"]
    assert torch.equal(words[:-100], known[: len(words) - 100]) and len(words) == len(
        AutoTokenizer.from_pretrained(prepared.new)
    )
    for name, tensor in new.items():
        if name.startswith(("vision_towers.", "prompt_feature_extractor.", "language_model.body.encoder.block")):
            assert torch.equal(tensor, tiny[name]), name
        elif name.startswith(("point_head.", "language_model.body.decoder.block")) and tensor.ndim == 2:
            assert not torch.equal(tensor, tiny[name]), name


def test_a_decoder_of_one_layer_keeps_the_first_of_what_all_start_from(prepared: Any):
    whole = PixelLLMForGroundedGeneration.from_pretrained(prepared.start / "model").state_dict()
    short = PixelLLMForGroundedGeneration.from_pretrained(prepared.start_of(SCRIPT["VARIANTS"]["one decoder layer"]))
    assert short.config.text_config.num_decoder_layers == 1
    assert all(torch.equal(tensor, whole[name]) for name, tensor in short.state_dict().items())


def test_every_setting_of_a_variant_is_one_that_recipes_know(prepared: Any, tmp_path: Path):
    plans = {name: SCRIPT["plan"](variant, prepared) for name, variant in SCRIPT["VARIANTS"].items()}
    for name, plan in {**plans, "first": SCRIPT["first_plan"](prepared)}.items():
        recipe = SCRIPT["recipe"](plan, prepared, tmp_path / name, 5)
        assert (recipe.model.lora is not None) == (name == "LoRA")
        assert recipe.data.cache_features == (name != "tuned towers")
