"""The split rule and the hash set, beside slow plain references."""

import random
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckd.errors import DataError
from ckd.visits.splits import HALVES, PUBLIC_SHARES, HashSet, Splitter, choose, of_adapter, point
from ckd.visits.visit import SPLITS, Visit, group_key, hash64

hashes = st.integers(0, 2**64 - 1)


def visit(text="a", subject=None, source="train", split=None):
    return Visit("v", "i", text, None, subject_id=subject, source=source, split=split)


@given(st.lists(hashes | st.integers(0, 20)), st.lists(hashes | st.integers(0, 20)), st.integers(1, 5))
def test_the_hash_set_is_a_set(values, asked, smallest_merge):
    found, expected = HashSet(smallest_merge), set()
    for value in values:
        assert found.add(value) == (value not in expected)
        expected.add(value)
        assert len(found) == len(expected)
    assert [value in found for value in values + asked] == [value in expected for value in values + asked]


def test_the_hash_set_holds_many_values_in_a_flat_array():
    generator = random.Random(0)
    found = HashSet(1000)
    values = [generator.getrandbits(64) for _ in range(30_000)]
    assert all(found.add(value) for value in values) and not any(found.add(value) for value in values)
    assert len(found._pending) <= 1000


@given(st.lists(hashes, unique=True), st.integers(0, 2**32), st.randoms())
def test_a_groups_split_depends_on_nothing_but_group_and_seed(groups, seed, shuffler):
    alone = {group: choose(group, seed, PUBLIC_SHARES) for group in groups}
    shuffler.shuffle(groups)
    assert {group: choose(group, seed, PUBLIC_SHARES) for group in groups} == alone


@pytest.mark.parametrize("shares", [HALVES, PUBLIC_SHARES])
def test_shares_hold_over_many_groups_and_the_seed_matters(shares):
    groups = [group_key(str(n), "") for n in range(20_000)]
    counts = Counter(choose(group, 1, shares) for group in groups)
    for split, share in shares.items():
        assert counts[split] / len(groups) == pytest.approx(share, abs=0.015)
    assert [choose(group, 1, shares) for group in groups[:200]] != [choose(group, 2, shares) for group in groups[:200]]


streams = st.lists(
    st.builds(
        visit,
        text=st.sampled_from("abcdef"),
        subject=st.none() | st.sampled_from("pqrs"),
        source=st.sampled_from(SPLITS),
    ),
    max_size=40,
).map(lambda found: sorted(found, key=lambda v: SPLITS.index(v.source)))


@given(streams, st.booleans(), st.integers(0, 99))
def test_by_files_a_group_lies_whole_in_the_first_split_that_saw_it(stream, halve, seed):
    splitter, home, moved = Splitter("files", seed, halve_tuning=halve), {}, 0
    for found in stream:
        wanted = choose(found.group, seed, HALVES) if halve and found.source == "tuning" else found.source
        moved += home.setdefault(found.group, wanted) != wanted
        assert splitter.place(found, "f:1") == home[found.group]
    assert splitter.moved == moved
    splitter.check()


@given(streams, st.integers(0, 99), st.sampled_from(SPLITS))
def test_public_ignores_rows_and_files_and_keeps_groups_whole(stream, seed, own):
    splitter, home = Splitter("public", seed, halve_tuning=True), {}
    for found in stream:
        split = splitter.place(replace(found, split=own), "f:1")
        assert home.setdefault(found.group, split) == split
    splitter.check()


def test_a_rows_own_split_wins_over_its_file():
    splitter = Splitter("files", 0, halve_tuning=False)
    assert splitter.place(visit(subject="p", split="held_out"), "f:1") == "held_out"
    assert splitter.place(visit(subject="p"), "f:2") == "held_out"  # no split of its own: it follows its subject
    assert splitter.moved == 1


@pytest.mark.parametrize("first", [{"split": "train"}, {"source": "train"}])
def test_contradicting_splits_of_one_subject_are_refused_with_their_place(first):
    splitter = Splitter("files", 0, halve_tuning=False)
    splitter.place(visit(subject="p", **first), "f:1")
    splitter.place(visit(subject="p", split="tuning"), "f:2")
    splitter.place(visit(subject="p", split="held_out"), "f:3")
    with pytest.raises(DataError, match=r"^f:2: the first of 2 visits"):
        splitter.check()


@given(st.lists(st.integers(0, 2**64 - 1), unique=True, max_size=50), st.floats(0, 0.99), st.floats(0, 0.99))
def test_the_adapters_subjects_follow_from_the_subject_alone_and_grow_with_the_share(groups, one, other):
    small, large = sorted((one, other))
    chosen = of_adapter(groups, large)
    assert chosen.tolist() == [bool(of_adapter([group], large)[0]) for group in groups]
    assert not (of_adapter(groups, small) & ~chosen).any()
    assert not of_adapter(groups, 0).any()


def test_the_adapter_gets_about_its_share_of_the_subjects_whatever_split_they_were_put_in_by_hash():
    groups = [hash64("subject", n) for n in range(4000)]
    chosen = of_adapter(groups, 0.5)
    low = np.array([point(group, 42) < 0.5 for group in groups])
    for part in (low, ~low):
        assert chosen[part].mean() == pytest.approx(0.5, abs=0.04)
