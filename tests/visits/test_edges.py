"""Split edges: the shares where they can be, moved by rank where a split would stay empty."""

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from ckd.visits.splits import choose, edges, point

SHARES = {"train": 0.7, "tuning": 0.1, "held_out": 0.2}
points = st.lists(st.floats(0, 1, exclude_max=True), unique=True, max_size=40)


def counts(labeled, ends):
    found = np.searchsorted(np.array([ends["train"], ends["tuning"]]), labeled, side="right")
    return [int((found == k).sum()) for k in range(3)]


@given(points)
@example([0.1, 0.2, 0.3])
@example([0.9, 0.95, 0.99])
@example([0.1, 0.9, 0.95, 0.99])
def test_no_split_stays_without_a_labelled_subject_when_there_are_enough(labeled):
    found = counts(labeled, edges(labeled, SHARES))
    if len(labeled) >= 3:
        assert min(found) >= 1
    if len(labeled) >= 4:
        assert found[0] >= 2


@given(points)
def test_edges_stay_at_the_shares_where_every_split_has_its_subjects(labeled):
    plain = {"train": 0.7, "tuning": 0.8, "held_out": 1.0}
    by_share = counts(labeled, plain)
    moved = edges(labeled, SHARES)
    if min(by_share) >= 1 and by_share[0] >= 2:
        assert np.allclose(list(moved.values()), list(plain.values()))
    assert moved["train"] <= moved["tuning"] <= moved["held_out"]


def test_a_subject_stands_where_choose_puts_it():
    for group in range(200):
        place, ends = point(group, 7), edges([], SHARES)
        assert choose(group, 7, SHARES) == next(split for split, end in ends.items() if place < end)


def test_two_splits_only_when_a_column_gives_the_third():
    assert edges([0.1, 0.2, 0.3], {"train": 0.9, "tuning": 0.1})["train"] == 0.3
