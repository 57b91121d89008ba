from __future__ import annotations

import pytest

from pixelllm_hf.evaluation.category_names import ENDS, PARTITIVES, SYNONYMS, canonical, categories_named


@pytest.mark.parametrize("category", sorted(SYNONYMS))
def test_every_category_is_named_by_its_own_name(category: str):
    assert categories_named(f"A {category}.")[0] == category


@pytest.mark.parametrize(
    ("caption", "category"),
    [
        ("a young woman with a dog", "person"),
        ("Two brown dogs run through the grass.", None),  # "run" ends no noun phrase by our rule: a sentence, no name
        ("two brown dogs running through the grass", "dog"),
        ("a group of people standing around a table", "person"),
        ("a large airliner on a runway", "airplane"),
        ("a hot dog on a paper plate", "hot dog"),
        ("a dog", "dog"),
        ("a man surfing a big wave", "person"),
        ("a wooden dining table", "dining table"),
        ("a table lamp", None),
        ("a man's hat", None),
        ("the wine glasses", "wine glass"),
        ("a pair of skis", "skis"),
        ("knives", "knife"),
        ("of", None),
        ("", None),
    ],
)
def test_the_head_noun_decides(caption: str, category: str | None):
    assert (categories_named(caption) or (None,))[0] == category


def test_a_synonym_of_several_categories_names_them_all():
    assert set(categories_named("a black bag")) == {"backpack", "handbag", "suitcase"}
    assert set(categories_named("a glass of wine")) == {"wine glass", "cup"}


def test_the_table_is_that_of_coco_and_its_rule_swallows_no_name():
    assert len(SYNONYMS) == 80
    words = {word for names in SYNONYMS.items() for name in names for word in name.replace(",", "").split()}
    assert not words & ENDS, "a name with such a word would be cut"
    assert not set(SYNONYMS) & PARTITIVES
    assert canonical("tvmonitor") == "tv"
