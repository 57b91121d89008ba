from __future__ import annotations

import pytest

from pixelllm_hf.evaluation.sharing import DistributedShard


@pytest.mark.parametrize("number", [0, 1, 9, 10, 11, 40])
def test_every_batch_belongs_to_exactly_one_process_and_is_the_batch_of_a_single_one(number: int):
    together = sorted(start for i in range(3) for start in DistributedShard(i, 3).starts(number, 5))
    assert together == list(DistributedShard().starts(number, 5))


def test_results_come_in_the_order_of_their_indices():
    assert DistributedShard().gathered({3: "d", 0: "a", 1: "b"}) == ["a", "b", "d"]


def test_without_a_launcher_one_process_does_everything():
    assert DistributedShard.of_this_process() == DistributedShard(0, 1) and DistributedShard().is_main
