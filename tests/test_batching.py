"""Windows and token batches against their definitions."""

from itertools import pairwise

from hypothesis import example, given
from hypothesis import strategies as st

from ckd.batching import token_batches, windows

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
