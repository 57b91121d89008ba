from __future__ import annotations

import pytest

from pixelllm_hf.data.scenes import ObjectLibrary, Scene, compose_scene
from pixelllm_hf.data.scenes.properties import PROPERTIES


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [compose_scene(3, index, ObjectLibrary.builtin()) for index in range(120)]


def asked(scenes: list[Scene]):
    return [(scene, question) for scene in scenes for question in scene.questions]


def test_every_answer_has_a_place_for_each_of_its_targets(scenes):
    for _, question in asked(scenes):
        assert question.answer.count("{seg}") == len(question.targets) == len(set(question.targets))


def test_questions_have_none_to_six_targets_and_all_of_these_occur(scenes):
    assert {len(question.targets) for _, question in asked(scenes)} == set(range(7))


def test_the_first_question_is_about_everything(scenes):
    for scene in scenes:
        assert sorted(scene.questions[0].targets) == [item.index for item in scene.objects]
        assert 1 <= len(scene.questions) <= 4


def test_a_property_is_true_of_all_targets_and_of_no_other_object(scenes):
    by_question = {known.question: known for known in PROPERTIES}
    seen = 0
    for scene, question in asked(scenes):
        if question.text in by_question:
            names = by_question[question.text].names
            assert set(question.targets) == {item.index for item in scene.objects if item.name in names}
            seen += 1
    assert seen > 50


def test_what_is_asked_for_on_a_side_lies_there_and_nothing_else_does(scenes):
    seen = 0
    for scene, question in asked(scenes):
        for side, sign in (("to the left of", -1), ("to the right of", 1)):
            if question.text.startswith(f"what is {side} the "):
                name = question.text.removeprefix(f"what is {side} the ").rstrip("?")
                (anchor,) = [item for item in scene.objects if item.name == name]
                others = [item for item in scene.objects if item is not anchor]
                beyond = {i.index for i in others if sign * (i.center_xy[0] - anchor.center_xy[0]) > 0}
                assert set(question.targets) == beyond
                seen += 1
    assert seen > 3


def test_answers_name_their_targets_from_left_to_right(scenes):
    for scene, question in asked(scenes):
        phrases = question.answer.split("{seg}")
        centers = [scene.objects[target].center_xy[0] for target in question.targets]
        assert centers == sorted(centers)
        if not question.answer.startswith("it is here"):
            for phrase, target in zip(phrases, question.targets, strict=False):
                assert phrase.rstrip().endswith(scene.objects[target].name)


def test_every_property_holds_for_names_that_are_in_the_library():
    names = set(ObjectLibrary.builtin().names)
    for known in PROPERTIES:
        assert known.names and known.names <= names
