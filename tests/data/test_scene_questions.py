from __future__ import annotations

import numpy as np
import pytest

from pixelllm_hf.data.scenes import ObjectLibrary, Scene, compose_scene
from pixelllm_hf.data.scenes.composition import SceneObject
from pixelllm_hf.data.scenes.properties import DESCRIBED_NAMES, PROPERTIES
from pixelllm_hf.data.scenes.questions import QuestionPlan, ask


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
            assert not by_question[question.text].unclear & {item.name for item in scene.objects}
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
        if not question.answer.endswith(" is here."):
            for phrase, target in zip(phrases, question.targets, strict=False):
                assert phrase.rstrip().endswith(scene.objects[target].name)


def test_every_name_of_the_library_is_described_and_no_other():
    names = set(ObjectLibrary.builtin().names)
    assert names == DESCRIBED_NAMES
    for known in PROPERTIES:
        assert known.names and known.names | known.unclear <= names
        assert not known.names & known.unclear


def test_of_other_names_nothing_is_asked_that_needs_to_know_them():
    owner = np.zeros((100, 100), np.uint8)
    objects = tuple(
        SceneObject(index, name, None, "", box, 1.0, owner)
        for index, (name, box) in enumerate([("eagle", (0, 0, 30, 30)), ("dog", (60, 0, 90, 30))])
    )
    known = {known.question for known in PROPERTIES}
    for seed in range(40):
        asked = {question.text for question in ask(np.random.default_rng(seed), objects, [], (100, 100))}
        assert not asked & known


def test_more_questions_are_all_different_and_leave_the_scene_as_it_is():
    plan = QuestionPlan(number=14, empty_share=0.25)
    few, many = (
        [compose_scene(3, i, ObjectLibrary.builtin(), None, how) for i in range(40)] for how in (QuestionPlan(), plan)
    )
    for short, long in zip(few, many, strict=True):
        assert short.image.tobytes() == long.image.tobytes() and short.referrals == long.referrals
        assert len({question.text for question in long.questions}) == len(long.questions) <= 14
    questions = [question for scene in many for question in scene.questions]
    assert len(questions) > 10 * len(many)
    assert 0.15 < sum(not question.targets for question in questions) / len(questions) < 0.35


def test_a_scene_is_asked_nothing_about_what_is_not_there_where_none_is_wanted():
    scenes = [compose_scene(3, i, ObjectLibrary.builtin(), None, QuestionPlan(14, 0.0)) for i in range(20)]
    assert all(question.targets for scene in scenes for question in scene.questions)


def test_where_only_properties_are_asked_for_every_other_question_is_about_one():
    known = {known.question for known in PROPERTIES}
    plans = QuestionPlan(), QuestionPlan(8, 0.11, properties_alone=True)
    usual, alone = ([compose_scene(3, i, ObjectLibrary.builtin(), None, how) for i in range(40)] for how in plans)
    positive = 0
    for plain, scene in zip(usual, alone, strict=True):
        assert plain.image.tobytes() == scene.image.tobytes()
        everything, *others = scene.questions
        assert everything == plain.questions[0] and {question.text for question in others} <= known
        positive += sum(bool(question.targets) for question in others)
    asked_usually = [question for scene in usual for question in scene.questions if question.text in known]
    assert positive > 2 * sum(bool(question.targets) for question in asked_usually)
