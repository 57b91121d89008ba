from __future__ import annotations

import pytest

from pixelllm_hf.processing.tasks import LONG_CAPTION_PROMPTS, SHORT_CAPTION_PROMPTS, TASK_SPECS, task_spec


def test_the_official_lists_have_their_lengths_and_trailing_blanks():
    assert len(set(SHORT_CAPTION_PROMPTS)) == 13 and len(set(LONG_CAPTION_PROMPTS)) == 11
    assert all(p.endswith(" ") and not p.endswith("  ") for p in SHORT_CAPTION_PROMPTS + LONG_CAPTION_PROMPTS)


def test_what_evaluation_asks_was_trained():
    for entry in TASK_SPECS.values():
        assert not entry.training or entry.default in entry.training


def test_users_words_are_put_into_the_phrase():
    assert task_spec("refer").prompt("the dog") == "where is the dog"
    assert task_spec("caption").prompt(None) == "A photo of "
    with pytest.raises(ValueError, match="unknown task 'fly'"):
        task_spec("fly")
