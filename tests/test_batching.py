"""Windows and token batches against their definitions."""

from itertools import pairwise

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from ckd.batching import pad, token_batches, windows

LENGTHS = st.lists(st.integers(1, 300), max_size=80)


@given(LENGTHS, st.integers(1, 2000))
@example([300, 1, 1], 10)
def test_every_prompt_is_in_one_batch_and_no_batch_exceeds_the_budget(lengths, budget):
    batches = token_batches(lengths, budget)
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or max(lengths[i] for i in batch) * len(batch) <= budget


@given(LENGTHS, st.integers(1, 2000))
def test_batches_are_as_large_as_the_budget_allows_and_longest_first(lengths, budget):
    batches = token_batches(lengths, budget)
    for batch, following in pairwise(batches):
        assert lengths[batch[0]] * (len(batch) + 1) > budget
        assert min(lengths[i] for i in batch) >= max(lengths[i] for i in following)


@given(LENGTHS, st.integers(1, 50))
def test_windows_hold_every_position_once_by_decreasing_length(lengths, size):
    order = [i for window in windows(lengths, size) for i in window]
    assert sorted(order) == list(range(len(lengths)))
    assert [lengths[i] for i in order] == sorted(lengths, reverse=True)
    assert all(len(window) <= size for window in windows(lengths, size))


def test_pad_keeps_ids_and_marks_them():
    ids, mask = pad([np.array([5, 6]), np.array([7])], 9)
    assert ids.tolist() == [[5, 6], [7, 9]] and mask.tolist() == [[1, 1], [1, 0]]
