"""Rules of answers whose words may point: what may be said again, and how often."""

from __future__ import annotations

import pytest
import torch

from pixelllm_hf.modeling.decoding_rules import ANSWER_OPTIONS, EndOfLoop, EndOfRepeatedTargets, rules_of_answers

GROUP = [90, 91, 92, 93]
END, COMMA, AND = 1, 5, 6
BEAR, BOAT = [20, 21, *GROUP], [20, 22, *GROUP]


def goes_on(rule, *rows: list[int]) -> list[bool]:
    """Of rows of one length, whether anything but the end may follow."""
    left = rule(torch.tensor(rows), torch.zeros(len(rows), 99)).isfinite()
    assert left[:, END].all()
    return (left.sum(1) > 1).tolist()


def test_things_of_one_name_may_be_pointed_at_again_and_again():
    bears = [7, *GROUP] * 3
    assert goes_on(EndOfLoop(5, [END], GROUP), bears, [7, 8, 9, 10, 11] * 3) == [True, False]


def test_an_answer_that_says_the_same_target_for_ever_ends():
    rule = EndOfRepeatedTargets(2, [END], GROUP)
    said = [3, 4, *BEAR]
    for times in range(1, 6):
        assert goes_on(rule, said) == [times < 4]
        said += [COMMA, *BEAR]


def test_a_list_that_ends_before_with_another_word_is_whole():
    six = [3, *BEAR, *[COMMA, *BEAR] * 4, AND, *BEAR]
    assert goes_on(EndOfRepeatedTargets(4, [END], GROUP), six, [3, *BEAR, *[COMMA, *BEAR] * 5]) == [True, False]


def test_targets_that_take_turns_for_ever_end_too():
    rule = EndOfRepeatedTargets(2, [END], GROUP)
    turn = [COMMA, *BEAR, COMMA, *BOAT]
    assert goes_on(rule, [3, *turn * 3]) == [False]
    assert goes_on(rule, [3, *turn * 2, COMMA, *BEAR]) == [True]
    assert goes_on(rule, [3, *turn, COMMA, *BOAT, COMMA, *BEAR, COMMA, *BOAT]) == [True]


def test_only_where_a_target_is_complete_an_answer_ends():
    looping = [3, *[COMMA, *BEAR] * 4]
    rule = EndOfRepeatedTargets(2, [END], GROUP)
    assert goes_on(rule, looping) == [False]
    for left_out in range(1, 4):
        assert goes_on(rule, looping[:-left_out]) == [True]


def test_what_was_asked_does_not_count_as_said():
    asked = [7, 8] * 6
    assert goes_on(EndOfLoop(4, [END], GROUP), asked) == [False]
    assert goes_on(EndOfLoop(4, [END], GROUP, begin=len(asked)), asked) == [True]
    asked = [3, *[COMMA, *BEAR] * 4]
    assert goes_on(EndOfRepeatedTargets(2, [END], GROUP, begin=len(asked) - 6), asked) == [True]


def test_an_answer_that_may_not_end_yet_goes_on():
    scores = torch.zeros(1, 99)
    scores[:, END] = -torch.inf
    rows = torch.tensor([[3, *[COMMA, *BEAR] * 4]])
    assert EndOfRepeatedTargets(2, [END], GROUP)(rows, scores).isfinite().sum() == 98


@pytest.mark.parametrize(("ends", "target_ids"), [([], GROUP), ([END], [])])
def test_rules_that_cannot_mean_anything_are_left_out(ends, target_ids):
    own = ANSWER_OPTIONS | {"max_repeated_targets": 2}
    kinds = [type(rule).__name__ for rule in rules_of_answers(own, ends, target_ids)]
    assert "EndOfRepeatedTargets" not in kinds
