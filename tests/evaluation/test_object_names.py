from __future__ import annotations

import pytest

from pixelllm_hf.evaluation.object_names import ObjectNames, words_of

NAMES = ObjectNames({"bus": "buses", "bus stop": "bus stops", "leaf": "leaves", "sheep": "sheep", "car": "cars"})


@pytest.mark.parametrize(
    ("caption", "found"),
    [
        ("a bus", [("bus", False)]),
        ("two buses", [("bus", True)]),
        ("three red leaves and a leaf", [("leaf", True), ("leaf", False)]),
        ("a Bus Stop", [("bus stop", False)]),
        ("a carpet", []),
        ("a sheep and two sheep", [("sheep", False), ("sheep", True)]),
        ("three big white sheep", [("sheep", True)]),
        ("two cars are above a white sheep", [("car", True), ("sheep", False)]),
        ("", []),
    ],
)
def test_names_are_found_in_singular_and_plural(caption: str, found: list[tuple[str, bool]]):
    assert [(m.name, m.plural) for m in NAMES.mentions(words_of(caption))] == found


def test_a_mention_knows_its_words():
    (mention,) = NAMES.mentions(["two", "bus", "stops", "here"])
    assert (mention.first, mention.last) == (1, 2)


def test_every_built_in_name_is_found_in_its_own_plural():
    from pixelllm_hf.data.scenes import ObjectLibrary

    library = ObjectLibrary.builtin()
    names = ObjectNames({name: library.plural(name) for name in library.names})
    for name in library.names:
        for text in (f"a {name}", f"two {library.plural(name)}"):
            assert [m.name for m in names.mentions(text.split())] == [name], text
