"""What a page says of a model's data comes from its card, as plain text."""

from __future__ import annotations

from pathlib import Path

import pytest

from pixelllm_hf import EMBEDDED_CHECKPOINTS, embedded_checkpoint
from pixelllm_hf.space.learnt_from import LETTERS, learnt_from


def of_card(folder: Path, card: str) -> str:
    (folder / "README.md").write_text(card, encoding="utf-8")
    return learnt_from("mine", folder)


@pytest.mark.parametrize("name", EMBEDDED_CHECKPOINTS)
def test_every_embedded_model_says_what_it_has_learnt_from_and_its_limits(name: str):
    said = learnt_from(name, embedded_checkpoint(name))
    taught = said.removeprefix(f"What **{name}** has learnt from: ")
    assert 100 < len(taught) < 2 * LETTERS + 60 and taught.endswith(".")


def test_the_default_model_names_its_photographs():
    said = learnt_from("photo", embedded_checkpoint("photo"))
    assert all(word in said for word in ("Flickr8k", "COCO", "PASCAL VOC", "It knows people"))


@pytest.mark.parametrize("heading", ["## Training data", "### Training Data", "## What it was taught with"])
def test_the_first_sentences_of_the_section_are_taken(tmp_path: Path, heading: str):
    long = "Mice are small. " * 40
    card = f"# Card\n\nA model.\n\n{heading}\n\nCats and [dogs](dogs.md).\n{long}\n\nMore.\n\n## Limits\n\nNo birds.\n"
    said = of_card(tmp_path, card)
    assert said.startswith("What **mine** has learnt from: Cats and dogs. Mice are small.")
    assert said.endswith("Mice are small. No birds.") and "More" not in said and len(said) < LETTERS + 60


def test_nothing_of_a_card_is_fetched_or_run(tmp_path: Path):
    card = (
        "## Training\n\n![cats](https://elsewhere/cats.png) <script>alert(1)</script> *Cats* <img src=https://x/y>.\n"
    )
    said = of_card(tmp_path, card)
    assert "elsewhere" not in said and "<" not in said and r"\*Cats\*" in said


@pytest.mark.parametrize("card", ["", "# Card\n", "## Training\n\n## Limits\n\nNone.\n"])
def test_a_card_that_does_not_say_is_said_to(tmp_path: Path, card: str):
    assert of_card(tmp_path, card).endswith("its card does not say.")
    assert learnt_from("mine", tmp_path / "nowhere").endswith("its card does not say.")
