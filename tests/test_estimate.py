"""The model of N GPUs in docs/scaling.md: against counting shards one by one, and monotonous where it must be."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckd.estimate import Assumptions, spot_share, wall_s

SMALL = Assumptions(shard_rows=100, slow_share=0.0)


@given(st.integers(1, 3000), st.integers(1, 40))
def test_the_wall_time_is_that_of_dealing_full_shards_one_by_one(shards, gpus):
    free = [0.0] * gpus
    for _ in range(shards):
        first = free.index(min(free))
        free[first] += SMALL.shard_s
    assert sum(wall_s(shards * 100, gpus, SMALL).values()) == pytest.approx(SMALL.machine_s + SMALL.load_s + max(free))


@given(st.integers(1, 10**8), st.integers(1, 64))
def test_no_part_is_negative_and_the_visits_take_at_least_their_even_share(visits, gpus):
    parts = wall_s(visits, gpus, Assumptions())
    assert min(parts.values()) >= 0
    assert parts["visits"] >= visits / (gpus * Assumptions().rate) - 1e-6


def test_a_preemption_costs_half_a_shard_and_a_new_start():
    a = Assumptions()
    assert a.rework_s == a.shard_rows / (130 * 0.6) / 2 + 180 + 90
    assert math.isclose(spot_share(a), 0.05 * a.rework_s / 3600)
