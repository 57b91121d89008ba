"""Locations as text, and the recipes of `scripts/ablate_locations.py`."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

SCRIPT = runpy.run_path(str(Path(__file__).parents[2] / "scripts" / "ablate_locations.py"), run_name="ablate_locations")


@pytest.mark.parametrize("kind", ["strings", "bins"])
def test_a_written_box_is_read_again_to_half_a_hundredth(kind: str):
    box, size = [13.0, 40.0, 199.0, 100.0], (200, 100)
    read = SCRIPT["read"](SCRIPT["written"](box, size, kind), size)
    assert read == pytest.approx(box, abs=1.0)


def test_text_without_four_numbers_is_nowhere():
    assert SCRIPT["read"]("a red car 12 30", (100, 100)) == [0.0, 0.0, 0.0, 0.0]


def test_bins_are_one_token_each_and_strings_are_spelt(tmp_path: Path):
    prepared = SCRIPT["Prepared"].in_folder(tmp_path / "out", 2, 1)
    from transformers import AutoTokenizer

    spelt, binned = (AutoTokenizer.from_pretrained(prepared.tokenizer[kind]) for kind in ("strings", "bins"))
    assert len(binned("<10> <20> <50> <99>", add_special_tokens=False).input_ids) <= 2 * 4  # and blanks
    assert len(spelt("10 20 50 99", add_special_tokens=False).input_ids) >= 2 * 4
    for name, variant in SCRIPT["VARIANTS"].items():  # every setting is one that recipes know
        recipe = SCRIPT["recipe"](variant, prepared, tmp_path / name, 5)
        assert (recipe.model.lora is not None) == (name == "LoRA")
        assert recipe.data.cache_features == (name != "tuned towers")
