from __future__ import annotations

from collections import Counter

import pytest

from pixelllm_hf.data.mixing import GroundedBatches, MixedBatches

SIZES = {"trace": 17, "region": 5, "refer": 40}


def test_any_batch_can_be_asked_for_in_any_order():
    straight = MixedBatches(SIZES, batch_size=4, seed=3)
    plans = [straight.at(step) for step in range(50)]
    for step in (49, 0, 17, 3):
        assert MixedBatches(SIZES, batch_size=4, seed=3).at(step) == plans[step]
    far = MixedBatches(SIZES, batch_size=4, seed=3).at(9000)
    for step in range(8990, 9001):
        last = straight.at(step)
    assert last == far


def test_another_seed_gives_another_run():
    runs = [[MixedBatches(SIZES, batch_size=4, seed=seed).at(step) for step in range(20)] for seed in (0, 1)]
    assert runs[0] != runs[1]


def test_every_row_of_a_source_comes_once_a_pass():
    plan = MixedBatches(SIZES, batch_size=4, seed=0)
    seen: dict[str, Counter] = {name: Counter() for name in SIZES}
    for step in range(300):
        batch = plan.at(step)
        seen[batch.source].update(zip(batch.epochs, batch.indices, strict=True))
    for name, size in SIZES.items():
        assert max(seen[name].values()) == 1
        whole = [epoch for epoch in range(3) if sum(e == epoch for e, _ in seen[name]) == size]
        assert whole == [0, 1, 2]


def test_passes_differ_in_their_order():
    plan = MixedBatches({"only": 50}, batch_size=50, seed=0)
    assert plan.at(0).indices != plan.at(1).indices
    assert sorted(plan.at(0).indices) == sorted(plan.at(1).indices)
    fixed = MixedBatches({"only": 6}, batch_size=4, seed=0, shuffle=False)
    assert fixed.at(0).indices + fixed.at(1).indices == (0, 1, 2, 3, 4, 5, 0, 1)


def test_sources_come_as_often_as_they_weigh():
    plan = MixedBatches(SIZES, batch_size=2, seed=0, weights={"trace": 3, "region": 1, "refer": 0})
    count = Counter(plan.at(step).source for step in range(4000))
    assert count["refer"] == 0
    assert count["trace"] / 4000 == pytest.approx(0.75, abs=0.03)


def test_batches_that_are_taken_together_have_one_source_and_every_row_still_comes_once_a_pass():
    plan = MixedBatches(SIZES, batch_size=4, seed=0, together=3)
    batches = [plan.at(step) for step in range(5000 * 3)]
    assert all(len({batch.source for batch in batches[i : i + 3]}) == 1 for i in range(0, len(batches), 3))
    seen: dict[str, Counter] = {name: Counter() for name in SIZES}
    for batch in batches:
        seen[batch.source].update(zip(batch.epochs, batch.indices, strict=True))
    assert all(max(count.values()) == 1 for count in seen.values())
    assert MixedBatches(SIZES, batch_size=4, seed=0, together=3).at(14000) == batches[14000]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weights": {"trace": 1}}, "every source needs a weight"),
        ({"weights": {"trace": 0, "region": 0, "refer": 0}}, "some weight positive"),
        ({"weights": {"trace": -1, "region": 1, "refer": 1}}, "0 or more"),
        ({"weights": {"trace": float("nan"), "region": 1, "refer": 1}}, "0 or more"),
        ({"batch_size": 0}, "batch_size"),
        ({"together": 0}, "together must be 1 or more"),
    ],
)
def test_impossible_mixtures_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        MixedBatches(SIZES, **{"batch_size": 2, "seed": 0, **settings})


def test_an_empty_source_is_named():
    with pytest.raises(ValueError, match="source 'none' is empty"):
        MixedBatches({"none": 0}, batch_size=1, seed=0)


def test_each_row_has_a_random_stream_of_its_own():
    def collate(rows, generators):
        return {"draws": [generator.random() for generator in generators]}

    batches = GroundedBatches({"a": [{}] * 9}, collate, batch_size=3, seed=1)
    draws = [draw for step in range(4) for draw in batches.batch_at(step)["draws"]]
    assert len(set(draws)) == 12
    assert batches.batch_at(2) == GroundedBatches({"a": [{}] * 9}, collate, batch_size=3, seed=1).batch_at(2)
