"""The harness counts every kind of answer, also those that end a process."""

from __future__ import annotations

import os
import time

import pytest


def answers(fuzz, attempt, **options):
    return fuzz.run(attempt, lambda chance: chance.random(), 3, typed=[ValueError], **options)


def test_every_kind_of_answer_is_counted_and_the_run_goes_on(fuzz):
    def refuse(_):
        raise ValueError

    def fail(_):
        raise KeyError("raw")

    def accept_wrongly(_):
        fuzz.must(False, "a wrong result")

    assert answers(fuzz, lambda _: None).counts == {"accepted": 3}
    assert answers(fuzz, refuse).counts == {"typed": 3}
    assert answers(fuzz, fail).counts == {"raw": 3}
    assert answers(fuzz, accept_wrongly).counts == {"accepted wrongly": 3}
    assert answers(fuzz, lambda _: time.sleep(9), seconds=0.2).counts == {"hung": 3}
    assert answers(fuzz, lambda _: os._exit(7)).counts == {"killed": 3}


def test_memory_is_counted_whether_it_was_given_or_not(fuzz):
    import numpy as np

    # Far more than earlier tests can have left to the allocator, which hands freed memory out again.
    assert answers(fuzz, lambda _: np.ones(1 << 26), megabytes=40).counts["over memory"] >= 1
    assert answers(fuzz, lambda _: bytearray(1 << 34), megabytes=40).counts == {"over memory": 3}


def test_wrong_answers_fail_with_their_input(fuzz):
    def fail(_):
        raise KeyError("raw")

    with pytest.raises(AssertionError, match=r"raw: input 0: builtins\.KeyError: 'raw'"):
        answers(fuzz, fail).check()
    with pytest.raises(AssertionError, match="no input was refused"):
        answers(fuzz, lambda _: None).check()


def test_the_same_seed_gives_the_same_damage(fuzz):
    import random

    content = {"a": [1, {"b": "c"}], "d": None}
    made = [[fuzz.as_json(fuzz.damaged(content, random.Random(k))) for k in range(50)] for _ in range(2)]
    assert made[0] == made[1]
    assert len(set(made[0])) > 15
