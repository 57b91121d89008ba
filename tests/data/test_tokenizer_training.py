from __future__ import annotations

import string

import pytest
from transformers import AutoTokenizer

from pixelllm_hf.data.tokenizer_training import prompt_texts, scene_texts, train_tokenizer

TEXTS = ["in this image there is a red car, left of a t-shirt.", "a photo of two giraffes"] * 3


@pytest.fixture(scope="module")
def trained():
    return train_tokenizer(TEXTS)


def test_special_ids_are_t5_s(trained):
    assert (trained.pad_token_id, trained.eos_token_id, trained.unk_token_id) == (0, 1, 2)
    assert trained("a red car")["input_ids"][-1] == 1
    assert 1 not in trained("a red car", add_special_tokens=False)["input_ids"]


def test_every_word_of_the_corpus_is_one_piece(trained):
    for word in " ".join(TEXTS).replace(",", "").replace(".", "").split():
        assert trained.tokenize(word) == ["▁" + word]


@pytest.mark.parametrize(
    "text", ["a red car, left of a giraffe.", string.printable.lower().strip(), "zebra 42%", "it's a well-known café"]
)
def test_text_comes_back_without_unknown_pieces(trained, text):
    ids = trained(text)["input_ids"]
    assert trained.unk_token_id not in ids
    expected = " ".join(text.replace("é", "e").split())
    assert trained.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False) == expected


def test_case_blanks_and_curly_quotes_do_not_matter(trained):
    assert trained("  A Red\n CAR ")["input_ids"] == trained("a red car")["input_ids"]
    assert trained("“car’s”")["input_ids"] == trained('"car\'s"')["input_ids"]


def test_offsets_point_into_the_text_as_it_was(trained):
    text = "A red Giraffe"
    encoded = trained(text, add_special_tokens=False, return_offsets_mapping=True)
    assert [text[a:b].strip() for a, b in encoded["offset_mapping"]][:2] == ["A", "red"]
    assert encoded["offset_mapping"][-1][1] == len(text)


def test_the_vocabulary_stays_below_its_limit_and_keeps_the_frequent_words():
    texts = ["often often often"] + [f"word{i}" for i in range(300)]
    small = train_tokenizer(texts, max_pieces=100)
    assert len(small) == 100
    assert small.tokenize("often") == ["▁often"]
    with pytest.raises(ValueError, match="max_pieces"):
        train_tokenizer(texts, max_pieces=20)


def test_rare_words_can_be_spelt():
    assert train_tokenizer(["a a", "zebra"], min_count=2).tokenize("zebra") == ["▁", *"zebra"]


def test_saved_and_loaded_it_gives_the_same_ids(trained, tmp_path):
    trained.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert again(TEXTS)["input_ids"] == trained(TEXTS)["input_ids"]
    assert len(again) == len(trained)


def test_the_same_corpus_gives_the_same_file(tmp_path):
    for name in ("a", "b"):
        train_tokenizer(TEXTS).save_pretrained(tmp_path / name)
    assert (tmp_path / "a/tokenizer.json").read_bytes() == (tmp_path / "b/tokenizer.json").read_bytes()


def test_scene_texts_hold_captions_expressions_and_phrases(squares, tmp_path):
    for name, source in {
        "localized_narratives.jsonl": squares.narratives,
        "captions.json": squares.captions,
        "refcoco/refs.json": squares.refs,
        "visual_genome/region_descriptions.json": squares.regions,
    }.items():
        (tmp_path / "scenes" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "scenes" / name).write_bytes(source.read_bytes())
    texts = set(scene_texts(tmp_path / "scenes"))
    assert {"a red square.", "one red square", "the red square", "a red square"} <= texts


def test_missing_scenes_are_explained(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"pixelllm_hf\.data\.scenes"):
        list(scene_texts(tmp_path))


def test_the_prompts_of_all_tasks_can_be_asked():
    tokenizer = train_tokenizer(prompt_texts())
    assert tokenizer.tokenize("where is a photo") == ["▁where", "▁is", "▁a", "▁photo"]
